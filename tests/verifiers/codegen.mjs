// A TypeScript client of the operations, made by graphql-codegen's client preset and compiled by `tsc --strict`.
//
//   node codegen.mjs schema.graphql operations usage.ts empty-folder
//
// Writes the client and `usage.ts`, which uses it, into the folder. Prints one JSON object: how many documents it made and
// what the compiler says. tests/it/contract.rs wants no complaint.
import { copyFileSync, readFileSync, symlinkSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { generate } from '@graphql-codegen/cli';
import ts from 'typescript';

const [schema, operations, usage, folder] = process.argv.slice(2).map((path) => resolve(path));
symlinkSync(resolve('node_modules'), join(folder, 'node_modules'));
await generate({
  schema,
  documents: join(operations, '*.graphql'),
  silent: true,
  generates: {
    [join(folder, 'gql/')]: {
      preset: 'client',
      config: {
        documentMode: 'string',
        strictScalars: true,
        enumsAsTypes: true,
        scalars: { DateTime: 'string', JSON: 'unknown', Long: 'string' },
      },
    },
  },
});
copyFileSync(usage, join(folder, 'usage.ts'));
const program = ts.createProgram([join(folder, 'usage.ts')], {
  strict: true,
  noUncheckedIndexedAccess: true,
  exactOptionalPropertyTypes: true,
  noEmit: true,
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.ESNext,
  moduleResolution: ts.ModuleResolutionKind.Bundler,
  lib: ['lib.es2022.d.ts', 'lib.dom.d.ts'],
  types: [],
});
const complaints = ts.getPreEmitDiagnostics(program).map(({ file, start, messageText }) => {
  const line = file && start !== undefined ? file.getLineAndCharacterOfPosition(start).line + 1 : 0;
  return `${file?.fileName}:${line}: ${ts.flattenDiagnosticMessageText(messageText, '\n')}`;
});
const made = readFileSync(join(folder, 'gql/graphql.ts'), 'utf8').match(/^export const \w+Document = /gm)?.length ?? 0;
console.log(JSON.stringify({ documents: made, complaints }));
