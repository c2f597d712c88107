// The operations of docs/operations, in their order.

const documents = import.meta.glob('../../docs/operations/*.graphql', { query: '?raw', import: 'default', eager: true });
const variables = import.meta.glob('../../docs/operations/*.json', { query: '?raw', import: 'default', eager: true });

export const operations = Object.keys(documents)
  .sort()
  .map((path) => parseOperation(documents[path], variables[path.replace(/graphql$/, 'json')]));

/** A file of docs/operations: its first line is `# Group: Title`, further comment lines say more. */
function parseOperation(text, variables = '') {
  const [, group, title] = /^# ([^:]+): (.+)$/m.exec(text);
  const more = text.split('\n').slice(1).filter((line) => line.startsWith('# '));
  return { group, title, more: more.map((line) => line.slice(2)).join(' '), query: text, variables };
}
