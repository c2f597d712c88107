// What of a released schema its clients would miss in the next one, as GraphQL Inspector judges it.
//
//   node breaking.mjs released.graphql next.graphql
//
// Prints one JSON object for each breaking change. tests/it/contract.rs wants none.
import { readFileSync } from 'node:fs';
import { CriticalityLevel, diff } from '@graphql-inspector/core';
import { buildSchema } from 'graphql';

const [released, next] = process.argv.slice(2).map((file) => buildSchema(readFileSync(file, 'utf8')));
for (const { criticality, message, path } of await diff(released, next)) {
  if (criticality.level === CriticalityLevel.Breaking) console.log(JSON.stringify({ path, message }));
}
