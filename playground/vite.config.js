import { defineConfig } from 'vite';

export default defineConfig({
  // Every address is relative, so that the page works behind a proxy that serves it below a path of its own.
  base: './',
  build: {
    chunkSizeWarningLimit: 8000,
    // Whoever hands on the program hands on these libraries: their licences lie beside them.
    license: { fileName: 'licences.md' },
    modulePreload: { polyfill: false },
    rolldownOptions: {
      onwarn(warning, warn) {
        // A library marks files for servers that render; there are none here.
        if (warning.code !== 'MODULE_LEVEL_DIRECTIVE') warn(warning);
      },
    },
  },
  // The operations stand in docs/, beside this folder.
  server: { fs: { allow: ['..'] }, proxy: { '/graphql': 'http://127.0.0.1:8080' } },
});
