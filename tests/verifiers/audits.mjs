// The audits of graphql-http, the reference of the GraphQL-over-HTTP specification, on a real server.
//
//   TOKEN=tdk_… node audits.mjs http://127.0.0.1:8080/graphql
//
// Prints one JSON object for each audit. tests/it/contract.rs says how they must end.
import { serverAudits } from 'graphql-http';

const authorization = `Bearer ${process.env.TOKEN}`;
// The audits ask for the schema, which only callers with a key may see.
const fetchFn = (url, options = {}) => fetch(url, { ...options, headers: { ...options.headers, authorization } });
for (const audit of serverAudits({ url: process.argv[2], fetchFn })) {
  const { status, reason } = await audit.fn();
  console.log(JSON.stringify({ id: audit.id, name: audit.name, status, reason }));
}
