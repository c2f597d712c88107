// What two linters say about a schema: graphql-eslint, and graphql-schema-linter as second opinion.
//
//   node lint.mjs schema.graphql
//
// Prints one JSON object for each complaint. tests/it/contract.rs wants none.
import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import plugin from '@graphql-eslint/eslint-plugin';
import { ESLint } from 'eslint';
import schemaLinter from 'graphql-schema-linter';

const file = process.argv[2];

const rules = {
  ...plugin.configs['flat/schema-recommended'].rules,
  ...plugin.configs['flat/schema-relay'].rules,
  '@graphql-eslint/input-name': ['error', { checkInputType: true, caseSensitiveInputType: false }],
  '@graphql-eslint/no-scalar-result-type-on-mutation': 'error',
  '@graphql-eslint/require-nullable-fields-with-oneof': 'error',
  '@graphql-eslint/require-nullable-result-in-root': 'error',
  '@graphql-eslint/require-description': [
    'error',
    {
      types: true,
      rootField: true,
      FieldDefinition: true,
      InputValueDefinition: true,
      EnumValueDefinition: true,
      DirectiveDefinition: true,
      // `@skip` and `@include` are GraphQL's own.
      ignoredSelectors: ['DirectiveDefinition > InputValueDefinition'],
    },
  ],
  // The library that writes the schema decides how descriptions are quoted: by their length.
  '@graphql-eslint/description-style': 'off',
  // Beside `edges` a connection has `nodes`, as at GitHub, and lists that are short by nature have no pages. What is listed
  // may be a value: Relay's specification does not ask that it is a `Node`.
  '@graphql-eslint/relay-edge-types': ['error', { shouldImplementNode: false, listTypeCanWrapOnlyEdgeType: false }],
  // The specification allows one direction: what waits is read forwards alone.
  '@graphql-eslint/relay-arguments': ['error', { includeBoth: false }],
};

// An event type is called so by everybody; it is no type of something.
const [severity, naming] = rules['@graphql-eslint/naming-convention'];
const objects = 'ObjectTypeDefinition,ObjectTypeExtension';
rules['@graphql-eslint/naming-convention'] = [
  severity,
  { ...naming, [objects]: { ...naming[objects], ignorePattern: '^EventType$' } },
];

// Values, which belong to what they stand in or are known by something else: whoever adds a thing to `Node` gives it an id.
const values = [
  'Alert', 'BackfillPreview', 'Circuit', 'CircuitBreakerRule', 'CircuitTrip', 'DeletedWebhook', 'DeliveryCounts', 'DeliveryExplanation',
  'DeliveryProfile', 'DeliveryStats', 'DeliveryTimer', 'DeliveryUpdate', 'ErasureRemainder', 'FilterHint', 'FilterPreview', 'HttpHeader',
  'HttpRequest', 'HttpResponse', 'Ledger', 'NotRedelivered', 'PageInfo', 'ProfileLabels', 'Projection', 'ProjectionStop',
  'PublishMessageResult', 'QuarantineEntry', 'RateLimit', 'RedeliverDeliveriesResult', 'RedeliveryPreview', 'RetryPolicy', 'SequenceReport',
  'StatsBucket', 'TestDeliveryRequest', 'TestDeliveryResult', 'UndeliveredSequence', 'UnmatchedFilter', 'UserError', 'Viewer',
  'WebhookChange', 'WebhookHeader', 'WebhookSecret', 'WebhookSnapshot', 'WebhookSummary', 'WebhookTimers', 'WebhookUpdate',
];
rules['@graphql-eslint/strict-id-in-types'] = [
  'error',
  { acceptedIdNames: ['id'], acceptedIdTypes: ['ID'], exceptions: { types: values, suffixes: ['Connection', 'Edge', 'Payload'] } },
];

// Fields stand in the order in which they are read, not in that of the alphabet.
const unwanted = [
  'EnumValuesSortedAlphabetically',
  'InputObjectFieldsSortedAlphabetically',
  'InterfaceFieldsSortedAlphabetically',
  'TypeFieldsSortedAlphabetically',
];

const eslint = new ESLint({
  cwd: dirname(file),
  overrideConfigFile: true,
  overrideConfig: {
    files: ['**/*.graphql'],
    plugins: { '@graphql-eslint': plugin },
    languageOptions: { parser: plugin.parser, parserOptions: { graphQLConfig: { schema: file } } },
    rules,
  },
});
const results = await eslint.lintFiles([file]);
for (const { ruleId, line, message } of results.flatMap((result) => result.messages)) {
  console.log(JSON.stringify({ linter: 'graphql-eslint', rule: ruleId, line, message }));
}

const definition = readFileSync(file, 'utf8');
const configuration = new schemaLinter.configuration.Configuration({ definition }, {});
const others = configuration.getRules().filter((rule) => !unwanted.includes(rule.name));
for (const error of schemaLinter.validator.validateSchemaDefinition({ definition }, others, configuration)) {
  console.log(JSON.stringify({ linter: 'graphql-schema-linter', rule: error.ruleName, line: error.locations?.[0].line, message: error.message }));
}
console.error(`${Object.keys(rules).length} and ${others.length} rules`);
