// Writes jsonschema_tools.ndjson: what the checks of jsonschema-tools 1.3.0 say of schemas, and of
// pairs of versions. Run `node jsonschema_tools.mjs` after `npm install` in this folder.
//
// The checks are test functions of its mocha suites, which it does not export; rewire, one of its own
// dependencies, reads them. Lines:
//   {"jsonschema-tools", "ajv": versions, "envelope": the schema around each field}
//   {"check": name, "value"?: the field's schema, "more"?: what replaces keywords of the envelope,
//    "failed"?: [names of checks], "crashed"?: [those that failed with an exception that is no assertion]}
//   {"compare": position, "fields": [schemas], "rows": ["010..."]}: for each older field (row) and
//    newer field (column) at this position 0 for compatible, 1 for not, 2 for another exception.
import { createRequire } from "node:module";
import { writeFileSync } from "node:fs";

const require = createRequire(import.meta.url);
const rewire = require("rewire");
const tests = "@wikimedia/jsonschema-tools/lib/tests";
const robustness = rewire(`${tests}/robustness.js`).__get__("testCases");
const assertCompatible = rewire(`${tests}/compatibility.js`).__get__("assertCompatible");
const options = { logLevel: "fatal", enforcedNumericBounds: [-(2 ** 53 - 1), 2 ** 53 - 1] };
const clone = (value) => JSON.parse(JSON.stringify(value));

const TEXT = { type: "string" };
const LONG = { type: "string", maxLength: 9 };
const BOUNDED = { type: "integer", minimum: 0, maximum: 9 };
const object = (properties, more = {}) => ({ type: "object", properties, ...more });

// Schemas of one field, by name.
const FIELDS = {
  text: TEXT, long: LONG, bounded: BOUNDED, boolean: { type: "boolean" }, null: { type: "null" },
  empty: {}, described: { description: "d" }, "not a type": { type: "x" }, "type list": { type: ["string"] },
  "type union": { type: ["string", "null"] }, "empty type list": { type: [] },
  pattern: { ...TEXT, pattern: "^a" }, "pattern, maxLength": { ...LONG, pattern: "^a" },
  "bad pattern": { ...LONG, pattern: "(" }, lookahead: { ...LONG, pattern: "(?=a)a" },
  "back-reference": { ...LONG, pattern: "(a)\\1" },
  ...Object.fromEntries(["date-time", "uri", "uri-reference", "url", "uuid", "regex", "nothing"].flatMap((format) => [
    [`format ${format}`, { ...TEXT, format }], [`format ${format}, maxLength`, { ...LONG, format }],
  ])),
  "negative maxLength": { ...TEXT, maxLength: -1 }, "maxLength of text": { ...TEXT, maxLength: "9" },
  minLength: { ...TEXT, minLength: 1 }, "negative minLength": { ...TEXT, minLength: -1 },
  enum: { ...TEXT, enum: ["a", "b"] }, "enum with null": { ...TEXT, enum: ["a", null] },
  "empty enum": { ...TEXT, enum: [] }, "enum twice": { ...TEXT, enum: ["a", "a"] },
  "enum without type": { enum: ["a"] }, const: { ...TEXT, const: "a" }, "const without type": { const: "a" },
  default: { ...TEXT, default: "a" }, "default of another type": { ...TEXT, default: 1 },
  ...Object.fromEntries(["integer", "number"].flatMap((type) => [
    [type, { type }], [`${type} minimum`, { type, minimum: 0 }], [`${type} maximum`, { type, maximum: 0 }],
    [`${type} bounds`, { type, minimum: -1.5, maximum: 1.5 }],
    [`${type} exact bounds`, { type, minimum: -9007199254740991, maximum: 9007199254740991 }],
    [`${type} low`, { type, minimum: -9007199254740992, maximum: 0 }],
    [`${type} high`, { type, minimum: 0, maximum: 9007199254740992 }],
    [`${type} text bounds`, { type, minimum: "0", maximum: 9 }],
    [`${type} exclusive`, { type, exclusiveMinimum: 0, exclusiveMaximum: 9 }],
    [`${type} draft 4 exclusive`, { type, minimum: 0, maximum: 9, exclusiveMinimum: true }],
    [`${type} multipleOf`, { type, minimum: 0, maximum: 9, multipleOf: 2 }],
    [`${type} multipleOf 0`, { type, minimum: 0, maximum: 9, multipleOf: 0 }],
  ])),
  "number or null": { type: ["integer", "null"] },
  list: { type: "array" }, "list of text": { type: "array", items: TEXT }, "list of {}": { type: "array", items: {} },
  "list of lists": { type: "array", items: { type: "array", items: TEXT } },
  "list of untyped lists": { type: "array", items: { type: "array" } },
  "list of unions": { type: "array", items: { type: ["string", "null"] } },
  "list of true": { type: "array", items: true }, "tuple": { type: "array", items: [TEXT] },
  "list of numbers": { type: "array", items: { type: "integer" } },
  "list of objects": { type: "array", items: object({ a: TEXT }) },
  "list with camelCase": { type: "array", items: object({ aB: TEXT }) },
  "unique texts": { type: "array", items: TEXT, uniqueItems: true },
  "unique objects": { type: "array", items: object({ a: TEXT }), uniqueItems: true },
  "few unique objects": { type: "array", items: object({ a: TEXT }), uniqueItems: true, maxItems: 9 },
  "unique false": { type: "array", items: object({ a: TEXT }), uniqueItems: false },
  "unique union": { type: "array", items: { type: ["string", "object"] }, uniqueItems: true },
  "contains": { type: "array", items: TEXT, contains: { ...TEXT, pattern: "a" } },
  object: { type: "object" }, "object of nothing": object({}), "object of a": object({ a: TEXT }),
  "object of untyped": object({ a: {} }), "object of described": object({ a: { description: "d" } }),
  "object of true": object({ a: true }), "object of numbers": object({ a: { type: "integer" } }),
  "object of camelCase": object({ aB: TEXT }), "object of Capital": object({ A: TEXT }),
  "object of kebab-case": object({ "a-b": TEXT }), "object of $a1": object({ $a1: TEXT }), "object of 1a": object({ "1a": TEXT }),
  "object of _a": object({ _a: TEXT }), "object of ''": object({ "": TEXT }),
  "object, deep camelCase": object({ a: object({ bC: TEXT }) }),
  "required": object({ a: TEXT }, { required: ["a"] }), "required b": object({ a: TEXT }, { required: ["b"] }),
  "required twice": object({ a: TEXT }, { required: ["a", "a"] }), "required none": object({ a: TEXT }, { required: [] }),
  "required without properties": { type: "object", additionalProperties: TEXT, required: ["a"] },
  "required none without properties": { type: "object", additionalProperties: TEXT, required: [] },
  "required text": object({ a: TEXT }, { required: "a" }), "draft 3 required": object({ a: { ...TEXT, required: true } }),
  "closed": object({ a: TEXT }, { additionalProperties: false }), "only closed": { type: "object", additionalProperties: false },
  "open": object({ a: TEXT }, { additionalProperties: true }), "only open": { type: "object", additionalProperties: true },
  "map of text": { type: "object", additionalProperties: TEXT }, "map of {}": { type: "object", additionalProperties: {} },
  "map of unions": { type: "object", additionalProperties: { type: ["string", "null"] } },
  "map of numbers": { type: "object", additionalProperties: { type: "integer" } },
  "map of camelCase": { type: "object", additionalProperties: object({ aB: TEXT }) },
  "map of untyped lists": { type: "object", additionalProperties: { type: "array" } },
  "map of required": { type: "object", additionalProperties: object({ a: TEXT }, { required: ["b"] }) },
  "patterns": { ...object({ a: TEXT }), patternProperties: { "^a": TEXT } },
  "only patterns": { type: "object", patternProperties: { "^a": TEXT } },
  "bounded patterns": { ...object({ a: TEXT }), patternProperties: { "^a": TEXT }, propertyNames: { maxLength: 9 } },
  "patterns of numbers": { ...object({ a: TEXT }), patternProperties: { "^a": { type: "integer" } }, propertyNames: { maxLength: 9 } },
  "propertyNames pattern": { ...object({ a: TEXT }), propertyNames: { pattern: "a" } },
  "dependencies": object({ a: TEXT, b: TEXT }, { dependencies: { a: ["b"] } }),
  "dependent schema": object({ a: TEXT }, { dependencies: { a: { properties: { b: { type: "integer" } } } } }),
  "oneOf": { oneOf: [TEXT, LONG] }, "typed oneOf": { ...TEXT, oneOf: [TEXT, LONG] }, "empty oneOf": { ...TEXT, oneOf: [] },
  "oneOf of types": { ...TEXT, oneOf: [TEXT, { type: "boolean" }] }, "oneOf of {}": { ...TEXT, oneOf: [{}, {}] },
  "oneOf of objects": { type: "object", oneOf: [object({ a: TEXT }, { required: ["a"] }), object({ a: LONG }, { required: ["a"] })] },
  "oneOf of others": { type: "object", oneOf: [object({ a: TEXT }, { required: ["a"] }), object({ b: TEXT }, { required: ["b"] })] },
  "oneOf without required": { type: "object", oneOf: [object({ a: TEXT }), object({ b: TEXT })] },
  "oneOf with one required": { type: "object", oneOf: [object({ a: TEXT }, { required: ["a"] }), object({ b: TEXT })] },
  "oneOf of camelCase": { type: "object", oneOf: [object({ aB: TEXT }, { required: [] })] },
  "oneOf of unions": { ...TEXT, oneOf: [{ type: ["string", "null"] }] },
  "anyOf": { ...TEXT, anyOf: [TEXT, { type: ["string", "null"] }] }, "anyOf of numbers": { ...TEXT, anyOf: [{ type: "integer" }] },
  "allOf": { ...TEXT, allOf: [{ maxLength: 3 }] }, "allOf of unions": { ...TEXT, allOf: [{ type: ["string", "null"] }] },
  "allOf of camelCase": { type: "object", allOf: [object({ aB: TEXT })] },
  "allOf of required": { type: "object", allOf: [object({ a: TEXT }, { required: ["b"] })] },
  "not": { ...TEXT, not: { type: ["string", "null"] } }, "not a number": { ...TEXT, not: { type: "integer" } },
  "if": { ...TEXT, if: { type: "integer" }, then: { type: "integer" }, else: { type: "number" } },
  "if of patterns": { ...TEXT, if: { pattern: "a" } }, "if of objects": object({ a: TEXT }, { if: { required: ["z"] }, then: object({ bC: {} }) }),
  "unknown keyword": { ...TEXT, nothing: { pattern: "a" } }, "true": true, "false": false,
};

// Where a field may be, given its schema.
const POSITIONS = {
  field: (f) => f,
  "field of a field": (f) => object({ a: f }),
  item: (f) => ({ type: "array", items: f }),
  "map value": (f) => ({ type: "object", additionalProperties: f }),
  "part of allOf": (f) => ({ type: "object", properties: { b: TEXT }, allOf: [object({ a: f })] }),
  "part of oneOf": (f) => ({ type: "object", oneOf: [object({ a: f }, { required: [] })] }),
  "part of anyOf": (f) => ({ ...object({ b: TEXT }), anyOf: [object({ a: f })] }),
  then: (f) => ({ ...object({ b: TEXT }), if: {}, then: object({ a: f }) }),
};

const ENVELOPE = {
  title: "test/verdict", $id: "/test/verdict/1.0.0", $schema: "http://json-schema.org/draft-07/schema#",
  type: "object", properties: { $schema: TEXT, x: TEXT },
};
const schemaOf = (value, more = {}) => ({ ...ENVELOPE, properties: { $schema: TEXT, x: value }, ...more });

const EXAMPLES = {
  "no examples": { examples: [] }, "a good example": { examples: [{ $schema: "/test/verdict/1.0.0", x: "a" }] },
  "an example of another version": { examples: [{ $schema: "/test/verdict/1.0.1", x: "a" }] },
  "an example without $schema": { examples: [{ x: "a" }] }, "an invalid example": { examples: [{ $schema: "/test/verdict/1.0.0", x: 1 }] },
  "an example that is a text": { examples: ["a"] }, "examples that are an object": { examples: {} },
  "two examples": { examples: [{ $schema: "/test/verdict/1.0.0" }, { $schema: "/test/verdict/1.0.0", x: 1 }] },
  "no $schema among the properties": { properties: { x: TEXT }, examples: [{ x: "a" }] },
  "another $id": { $id: "/test/verdict/2.0.0", examples: [{ $schema: "/test/verdict/1.0.0" }] }, "another draft": { $schema: "http://json-schema.org/draft-04/schema#" },
  "draft 4 with its exclusiveMinimum": {
    $schema: "http://json-schema.org/draft-04/schema#",
    properties: { $schema: TEXT, x: { ...BOUNDED, exclusiveMinimum: true } },
  },
};

const lines = [JSON.stringify({
  "jsonschema-tools": require("@wikimedia/jsonschema-tools/package.json").version, ajv: require("ajv/package.json").version, envelope: ENVELOPE,
})];
let verdicts = 0;

function check(name, value, more) {
  const schema = clone(schemaOf(value, more));
  const failed = [];
  const crashed = [];
  for (const test of robustness) {
    if (test.condition && !test.condition({ schema, current: false }, options)) continue;
    verdicts += 1;
    try {
      test.assertFn(clone(schema), options);
    } catch (error) {
      failed.push(test.name);
      if (error.name !== "AssertionError" && !error.name.startsWith("AssertionError")) crashed.push(test.name);
    }
  }
  const line = { check: name, ...(more ? { more } : { value }) };
  if (failed.length) line.failed = failed;
  if (crashed.length) line.crashed = crashed;
  lines.push(JSON.stringify(line));
}

for (const [position, at] of Object.entries(POSITIONS))
  for (const [name, field] of Object.entries(FIELDS)) check(`${position}: ${name}`, at(field));
for (const [name, more] of Object.entries(EXAMPLES)) check(name, TEXT, more);

const COMPARED = [
  "text", "long", "empty", "described", "boolean", "type union", "type list", "pattern", "minLength", "enum", "enum twice",
  "empty enum", "default", "const", "integer", "integer minimum", "integer bounds", "list", "list of text", "tuple",
  "unique texts", "unique false", "object", "object of nothing", "object of a", "required", "required none", "closed", "open",
  "map of text", "map of {}", "patterns", "dependencies", "oneOf", "empty oneOf", "oneOf of types", "anyOf", "allOf", "not", "if",
  "true", "false",
].map((name) => FIELDS[name]).concat([
  { ...TEXT, enum: ["b", "a"] }, { ...TEXT, enum: ["a"] }, { ...TEXT, enum: ["a", 1, null] }, { ...TEXT, enum: [["a"]] },
  { ...TEXT, title: "t" }, { ...TEXT, examples: ["a"] }, { ...TEXT, maxLength: 3 }, { type: ["null", "string"] },
  object({ a: TEXT, b: TEXT }), object({ a: TEXT, b: TEXT }, { required: ["a", "b"] }), object({ a: TEXT, b: TEXT }, { required: ["b", "a"] }),
  object({ required: TEXT }), object({ enum: TEXT }), object({ maxLength: TEXT }), object({ description: TEXT }), object({ description: { type: "null" } }),
  { ...TEXT, default: null }, { ...TEXT, default: {} }, { ...TEXT, default: [] }, { ...TEXT, default: 1 }, { ...TEXT, default: true },
]);
for (const position of ["field", "item", "part of oneOf"]) {
  const at = POSITIONS[position];
  const rows = COMPARED.map((older) => COMPARED.map((newer) => {
    verdicts += 1;
    try {
      assertCompatible(clone(schemaOf(at(newer))), clone(schemaOf(at(older))));
      return "0";
    } catch (error) {
      return error.name.startsWith("AssertionError") ? "1" : "2";
    }
  }).join(""));
  lines.push(JSON.stringify({ compare: position, fields: COMPARED, rows }));
}

writeFileSync(new URL("jsonschema_tools.ndjson", import.meta.url), `${lines.join("\n")}\n`);
console.log(`${verdicts} verdicts`);
