// Writes ajv.ndjson: what AJV says of documents under schemas. Run `node make.mjs` after
// `npm install` in this folder. The output depends on nothing but this file and AJV's version.
//
// The first line holds the versions and the envelope. Each other line is one schema of a field:
//   {"name", "draft", "value": the field's schema, "secure", "cases": [[value, verdict, written?]]}
// A verdict is 0 (valid) or AJV's errors, each as [keyword, dataPath, schemaPath, params, message].
// `written` is the field as it is after validation, where that differs from what was given.
// Instead of "cases" there is "refused", AJV's reason, where the schema cannot be compiled.
import { createRequire } from "node:module";
import { writeFileSync } from "node:fs";

const require = createRequire(import.meta.url);
const Ajv = require("ajv");
const draft04 = require("ajv/lib/refs/json-schema-draft-04.json");
const draft06 = require("ajv/lib/refs/json-schema-draft-06.json");
const draft07 = require("ajv/lib/refs/json-schema-draft-07.json");
const secureSchema = require("ajv/lib/refs/json-schema-secure.json");

// The options and meta-schemas of EventGate 1.8.4, lib/EventValidator.js. It fetches draft 6.
function newAjv() {
  const ajv = new Ajv({ useDefaults: true, schemaId: "auto", allErrors: true, logger: false });
  ajv.addMetaSchema(draft04);
  ajv.addMetaSchema(draft06);
  ajv.addSchema(draft07, "https://json-schema.org/draft-07/schema");
  return ajv;
}
const isSecure = newAjv().compile(secureSchema);

let seed = 20261126;
function random() {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
}
const pick = (list) => list[Math.floor(random() * list.length)];

const META = {
  type: "object",
  required: ["stream"],
  properties: { stream: { type: "string", minLength: 1 }, dt: { type: "string" } },
};
function schemaOf(draft, value) {
  return {
    title: "test/verdict",
    [draft === "draft-04" ? "id" : "$id"]: "/test/verdict/1.0.0",
    $schema: `http://json-schema.org/${draft}/schema#`,
    type: "object",
    required: ["$schema", "meta"],
    properties: { $schema: { type: "string" }, meta: META, value },
  };
}
const HEAD = '{"$schema":"/test/verdict/1.0.0","meta":{"stream":"test"},"value":';

const lines = [JSON.stringify({ ajv: require("ajv/package.json").version, head: HEAD })];
let verdicts = 0;

// `texts`: values as JSON text, because 1 and 1.0 are one value in JavaScript.
function add(name, value, texts, draft = "draft-07") {
  const line = { name, draft, value };
  const schema = schemaOf(draft, value);
  let validate;
  try {
    line.secure = isSecure(schema) ? 1 : 0;
    validate = newAjv().compile(schema);
  } catch (error) {
    lines.push(JSON.stringify({ ...line, refused: error.message }));
    verdicts += 1;
    return;
  }
  const cases = [...new Set(texts)].map((text) => {
    const event = JSON.parse(`${HEAD}${text}}`);
    const valid = validate(event);
    const errors = (validate.errors || []).map((e) => [
      e.keyword, e.dataPath, e.schemaPath, e.params, e.message,
    ]);
    const written = JSON.stringify(event.value);
    verdicts += 1;
    const parts = [text, valid ? "0" : JSON.stringify(errors)];
    return `[${[...parts, ...(written === text ? [] : [written])].join(",")}]`;
  });
  const start = JSON.stringify(line);
  lines.push(`${start.slice(0, -1)},"cases":[${cases.join(",")}]}`);
}

// Format by format.

const COMMON = [
  "", " ", "a", "A1", "é", "日本", "a b", "a|b", "a\\b", "#", "/", "//", ":", "%", "%41", "%zz", "a\nb",
  "\ufeff", "a\u2028", "0", "1.2.3.4", "2026-01-31", "12:00:00", "2026-01-31T12:00:00Z", "::1", "😀",
];
const STRINGS = {
  date: [
    "2026-01-31", "2026-02-29", "2024-02-29", "2026-13-01", "2026-19-39", "2026-20-01", "2026-00-00",
    "2026-01-40", "26-01-31", "2026-1-31", "02026-01-31", "0000-01-01", "2026-01-31Z", "٢٠٢٦-01-31",
    "2026-01-31\n", "2026/01/31", "-2026-01-31", "2026-06-31", "1900-02-29", "2000-02-29",
  ],
  time: [
    "12:00:00", "12:00:00Z", "12:00:00z", "24:00:00Z", "23:59:60Z", "23:59:60", "12:00:60Z", "12:00:61Z",
    "12:60:00Z", "29:00:00Z", "12:00Z", "12:00:00.1Z", "12:00:00.Z", "12:00:00+01:00", "12:00:00+01",
    "12:00:00+0100", "12:00:00+99:99", "12:00:00-00:00", "12:00:00+1", "22:59:60-01:00", "00:59:60+01:00",
    "23:59:60+01:00", "12:00:00,5Z", "12:00:00 Z",
  ],
  "date-time": [
    "2026-01-31T12:00:00Z", "2026-01-31t12:00:00z", "2026-01-31 12:00:00Z", "2026-01-31\t12:00:00Z",
    "2026-01-31T12:00:00", "2026-01-31T12:00Z", "2026-01-31T12:00:00.123456789Z", "2026-01-31T12:00:00+01",
    "2026-01-31T12:00:00+0100", "2026-01-31T12:00:00+01:00", "2026-01-31T12:00:00+24:00",
    "2021-19-39T29:59:59Z", "2026-02-30T00:00:00Z", "2026-01-01T00:00:61Z", "2026-01-01T00:00:60Z",
    "2026-12-31T23:59:60Z", "2026-01-31T24:00:00Z", "2026-01-31T12:00:00Z ", " 2026-01-31T12:00:00Z",
    "2026-01-31T12:00:00Z\n", "2026-01-31", "20260131T120000Z", "2026-W05-6T12:00:00Z",
    "2026-01-31\u00a012:00:00Z", "2026-01-31T12:00:00.Z", "2026-01-31T12:00:00,1Z", "0000-01-01T00:00:00Z",
    "2026-01-31T12:00:00\u2212 01:00", "2026-01-31T12:00:00UTC", "Sat, 31 Jan 2026 12:00:00 GMT",
  ],
  uri: [
    "https://en.wikipedia.org/w/api.php?titles=A|B", "https://de.wikipedia.org/wiki/Käse",
    "http://a", "a:", "a:b", "urn:x:y", "mailto:a@b.c", "http:", "http:/", "http://", "1a:b", "a+.-1:x",
    "http://a b", "http://a\u00a0b", "//a/b", "/a", "http://[::1]:80/", "http://[", "http://a/%", "javascript:alert(1)",
    "http://a/?q=<>\"{}", "http://a#b#c", "tag:a@b,2026:c", "data:text/plain;base64,AA==", "HTTP://A",
  ],
  "uri-reference": [
    "https://en.wikipedia.org/w/api.php?titles=A|B", "https://de.wikipedia.org/wiki/Käse", "/wiki/Käse",
    "wiki/A|B", "//host/path", "?a=b", "#a", "#a#b", "a#b", "a#b\\c", "a\\b", "\\a", "\\\\host\\a", "#\\",
    "a b", "a\tb", "http://a b", ":", "::", "a:b:c", "http:", "/a//b", "..", "./a:b", "%", "a#", "##",
  ],
  "uri-template": [
    "/a/{b}", "/a/{b", "{}", "{b,c}", "{+b}", "{b:3}", "{b:0}", "{b:10000}", "{b*}", "{b*,c:4}", "{!b}", "{b.c}",
    "{b-c}", "{%41}", "a%20b", "a%2", "a<b", "a^b", "a`b", "é{é}", "{b}}", "a'b", "{#a,b}", "{b,}", "{,b}",
  ],
  url: [
    "http://a.bc", "https://en.wikipedia.org/wiki/K%C3%A4se", "https://de.wikipedia.org/wiki/Käse", "ftp://a.bc/",
    "gopher://a.bc", "http://a", "http://localhost", "http://a.b", "http://1.2.3.4", "http://10.0.0.1",
    "http://127.0.0.1", "http://169.254.1.1", "http://192.168.0.1", "http://172.16.0.1", "http://172.32.0.1",
    "http://224.1.1.1", "http://1.2.3.0", "http://1.2.3.255", "http://user:pw@a.bc", "http://user@a.bc:80/x",
    "http://@a.bc", "http://a.bc:1", "http://a.bc:99999", "http://a.bc:123456", "http://a.bc/ x", "http://a-b.cd",
    "http://a--b.cd", "http://-a.bc", "http://a-.bc", "http://a_b.cd", "http://a..bc", "http://a.bc.", "http://a.bc?x",
    "http://a.bc/?x#y", "http://a.bc#x", "http://münchen.de", "http://a.xn--p1ai", "HTTP://A.BC", "http://a.bc/@x",
    "http://x/y@a.bc", "http://x@y@a.bc/@", "http://@@a.bc", "http://[::1]/", "//a.bc", "http:a.bc", "http://1.2.3",
    "http://01.2.3.4", "http://1.2.3.4.5", "http://1.1.1.1.com", "http://10.0.0.1.com", "http://a.b1", "http://9.com",
  ],
  email: [
    "a@b", "a@b.c", "a.b@c", ".a@b", "a.@b", "a..b@c", "a@", "@b", "a@b@c", "a b@c", "\"a b\"@c", "a@[127.0.0.1]",
    "a+b@c.d", "é@b.c", "a@é.c", "a@-b", "a@b-", "a@b.c.", "A@B.C", "a@b_c", "a!#$%&'*+/=?^_`{|}~-@b",
  ],
  hostname: [
    "a", "a.b", "a-b", "-a", "a-", "a.", "a..b", ".a", "a_b", "1.2", "é", "xn--a", "A.B", "a b", "localhost", "a:80",
    `${"a".repeat(63)}.b`, `${"a".repeat(64)}.b`, `${"a.".repeat(126)}a`, `${"a.".repeat(127)}a`, `${"a.".repeat(127)}`,
  ],
  ipv4: [
    "1.2.3.4", "01.02.03.04", "001.2.3.4", "256.1.1.1", "1.2.3", "1.2.3.4.5", "0.0.0.0", "255.255.255.255", "1.2.3.4 ",
    "١.2.3.4", "1.2.3.4\n", "0001.2.3.4", "1,2,3,4", "1.2.3.04", "0x1.2.3.4", "1.2.3.1e1",
  ],
  ipv6: [
    "::", "::1", "1::", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::8", "1::2::3", ":1", "1:", ":::",
    "::ffff:1.2.3.4", "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:7:1.2.3.4", "::1.2.3", "::256.1.1.1", "::01.2.3.4", "g::",
    "12345::", "fe80::1%eth0", "fe80::1%", " ::1", "::1 ", "::1\n", "1::2:3:4:5:6:7", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8",
    "1:2:3:4::5:6:7:8", "ABCD::", "[::1]", "::1/64", "1.2.3.4::", "\u00a0::1", "::1%a b", "fe80::1%a\nb",
  ],
  regex: [
    "^a", "(", ")", "[", "]", "a{", "a{1", "a{1}", "a{2,1}", "*", "+a", "a**", "(?=a)", "(?<=a)", "(?<n>a)\\k<n>", "\\1",
    "\\", "\\d", "\\Z", "a\\Z", "\\z", "\\u", "\\u{1}", "\\p{L}", "\\c", "\\x", "[z-a]", "(?i)a", "{", "}", "a|*", "(?:",
  ],
  uuid: [
    "123e4567-e89b-12d3-a456-426614174000", "123E4567-E89B-12D3-A456-426614174000", "123e4567e89b12d3a456426614174000",
    "urn:uuid:123e4567-e89b-12d3-a456-426614174000", "URN:UUID:123e4567-e89b-12d3-a456-426614174000",
    "{123e4567-e89b-12d3-a456-426614174000}", "123e4567-e89b-12d3-a456-42661417400", "123e4567-e89b-12d3-a456-42661417400g",
    "00000000-0000-0000-0000-000000000000", "123e4567-e89b-12d3-a456-426614174000\n",
  ],
  "json-pointer": [
    "", "/", "/a", "/a/b", "a", "/a~0b", "/a~1b", "/a~2b", "/a~", "//", "/é", "/a b", "#/a", "/~01",
  ],
  "json-pointer-uri-fragment": ["", "#", "#/", "#/a", "#a", "#/a~0b", "#/a~2", "#/a%20b", "#/a b", "#/é", "#/a%zz", "/a"],
  "relative-json-pointer": ["0", "1", "01", "10/a", "0#", "0#a", "1/", "-1", "a", "/a", "1/a~2", "0/a~1", "00", "1#/"],
};
const SOUP = ["", " ", ".", ":", "-", "/", "#", "@", "%", "0", "9", "a", "Z", "é", "\\", "{", "T", "+"];
function mutated(text) {
  const letters = [...text];
  const at = Math.floor(random() * (letters.length + 1));
  letters.splice(at, random() < 0.4 ? 0 : 1, pick(SOUP));
  return letters.join("");
}
const quoted = (texts) => texts.map((text) => JSON.stringify(text));
for (const [format, own] of Object.entries(STRINGS)) {
  const changed = own.filter((text) => text && text.length < 60).map(mutated);
  const all = quoted([...own, ...changed, ...COMMON]);
  add(`format ${format}`, { type: "string", format, maxLength: 999 }, [...all, "1", "null"]);
  add(`format ${format} in draft 4`, { type: "string", format, maxLength: 999 }, quoted(own.slice(0, 4)), "draft-04");
  add(`format ${format} without maxLength`, { type: "string", format }, quoted(own.slice(0, 2)));
}
for (const format of ["iri", "idn-email", "duration", "color", "nonsense", "int64", "idn-hostname", "iri-reference"])
  add(`format ${format}`, { type: "string", format, maxLength: 9 }, ['"a"']);

// Keyword by keyword.

const VALUES = [
  "null", "true", "false", "0", "1", "-1", "1.0", "-0.0", "1.5", "100.0", "1e2", "9007199254740993", "1e-7", '""',
  '"a"', '"ab"', '"A"', '"é"', '"😀"', '"1"', "[]", "[1]", "[1,1]", "[1,1.0]", '[1,"1"]', "[[],[]]", '["a","b","a"]',
  '[{"a":1,"b":2},{"b":2,"a":1}]', "[null,false,0]", "{}", '{"a":1}', '{"a":"x"}', '{"b":1}', '{"a":1,"b":"x"}',
  '{"a-b":1}', '{"a":{"a":1}}', '{"A":null}', '{"a":1,"b":2,"c":3}', '{"it\'s":1}', '{"1":1}',
];
const TEXT = { type: "string" };
const NUMBER = { type: "number" };
const A_TEXT = { type: "object", properties: { a: TEXT } };
const KEYWORDS = [
  {}, { type: "string" }, { type: "integer" }, { type: "number" }, { type: "boolean" }, { type: "null" },
  { type: "array" }, { type: "object" }, { type: ["string"] }, { type: ["string", "null"] }, { type: ["integer", "object"] },
  { enum: [1] }, { enum: ["a", null, 1.5] }, { enum: [{ a: 1 }, [1, 1]] }, { const: 1 }, { const: { a: 1 } }, { const: null },
  { const: [1, 1] }, { minimum: 1 }, { maximum: 1 }, { exclusiveMinimum: 1 }, { exclusiveMaximum: 1.5 },
  { minimum: 0, maximum: 1 }, { minimum: 0, exclusiveMinimum: 0 }, { multipleOf: 2 }, { multipleOf: 0.5 }, { multipleOf: 0.1 },
  { minLength: 2 }, { maxLength: 1 }, { minLength: 2, maxLength: 0 }, { pattern: "^a", maxLength: 9 }, { pattern: "[A-Z]", maxLength: 9 },
  { pattern: "\\d", maxLength: 9 }, { pattern: "^.$", maxLength: 9 }, { pattern: "\\w$", maxLength: 9 },
  { minItems: 2 }, { maxItems: 1 }, { items: TEXT }, { items: [NUMBER] }, { items: [NUMBER, TEXT], additionalItems: false },
  { items: [{}], additionalItems: NUMBER }, { items: {}, additionalItems: false }, { additionalItems: false },
  { contains: NUMBER }, { contains: {} }, { contains: { type: "null" } }, { uniqueItems: true, maxItems: 9 },
  { uniqueItems: true, items: TEXT }, { uniqueItems: false }, { minProperties: 2 }, { maxProperties: 1 },
  { required: ["a"] }, { required: ["b", "a"] }, { required: [] }, { required: ["it's", "a-b"] },
  { properties: { a: TEXT } }, { properties: { a: TEXT, b: NUMBER } }, { properties: { b: NUMBER, a: TEXT }, required: ["b", "a", "c"] },
  { properties: { a: false } }, { properties: { a: true } }, { properties: { "a-b": TEXT, "it's": TEXT, 1: TEXT } },
  { additionalProperties: false }, { properties: { a: {} }, additionalProperties: false },
  { additionalProperties: TEXT }, { properties: { a: TEXT }, additionalProperties: NUMBER, required: ["c"] },
  { patternProperties: { "^a": TEXT }, propertyNames: { maxLength: 9 } },
  { patternProperties: { "^a": TEXT, b: TEXT }, additionalProperties: false, propertyNames: { maxLength: 9 } },
  { propertyNames: { maxLength: 1 } }, { propertyNames: { pattern: "^[a-z]$", maxLength: 9 } }, { propertyNames: false },
  { dependencies: { a: ["b"] } }, { dependencies: { a: ["b", "c"], b: ["c"] } },
  { dependencies: { a: { required: ["c"] } } }, { dependencies: { a: { properties: { a: TEXT } }, b: ["a"] } },
  { not: TEXT }, { not: {} }, { not: { required: ["a"] } }, { anyOf: [TEXT, NUMBER] }, { anyOf: [A_TEXT, { required: ["b"] }] },
  { oneOf: [TEXT, NUMBER] }, { oneOf: [NUMBER, { type: "integer" }] }, { oneOf: [{}, {}, TEXT] },
  { allOf: [TEXT, { maxLength: 1 }] }, { allOf: [{ properties: { a: TEXT } }, { required: ["b"] }] },
  { if: TEXT, then: { minLength: 2 } }, { if: TEXT, then: { minLength: 2 }, else: NUMBER },
  { if: NUMBER, else: { required: ["a"] } }, { if: { required: ["a"] }, then: { properties: { a: TEXT } }, else: { required: ["b"] } },
  { then: TEXT }, { if: TEXT }, { if: true, then: false },
  { type: "object", required: ["a", "b"], properties: { a: TEXT, c: { type: "integer" } }, additionalProperties: false, maxProperties: 1 },
  { type: "array", minItems: 2, items: { type: "object", required: ["a"], properties: { a: TEXT } }, uniqueItems: true, maxItems: 1 },
  { type: "string", enum: ["a"], minLength: 2 }, { type: "integer", enum: [1], minimum: 5, const: 2 },
  { type: "array", enum: [1], not: {} }, { type: "object", anyOf: [TEXT], oneOf: [{}, {}], not: {}, if: {}, then: TEXT },
  { default: 1 }, { properties: { a: { default: "d" } } }, { properties: { z: { default: { y: 1 }, properties: { y: TEXT, x: { default: 2 } } } } },
  { properties: { z: { default: 1, type: "string" } }, required: ["z"] }, { items: [{ default: 1 }, { default: 2 }] },
  { patternProperties: { ".": { properties: { z: { default: 1 } } } }, propertyNames: { maxLength: 9 } },
  { patternProperties: { a: {} }, additionalProperties: { properties: { z: { default: 1 } } }, propertyNames: { maxLength: 9 } },
  { if: {}, then: { properties: { z: { default: 1 } } } }, { if: TEXT, then: {}, else: { properties: { z: { default: 1 } } } },
  { if: { properties: { z: { default: 1 } } }, then: { required: ["z"] } },
  { allOf: [{ properties: { z: { default: 1 } } }, { properties: { y: { default: 2 } } }] },
  { anyOf: [{ properties: { z: { default: 1 } } }] }, { oneOf: [{ properties: { z: { default: 1 } } }] },
  { not: { properties: { z: { default: 1 } }, required: ["z"] } }, { dependencies: { a: { properties: { z: { default: 1 } } } } },
  { contains: { properties: { z: { default: 1 } } } }, { propertyNames: { properties: { z: { default: 1 } } } },
  { if: { required: ["a"] }, then: { if: { required: ["b"] }, then: { properties: { z: { default: 1 } } }, else: { properties: { y: { default: 2 } } } } },
  { dependencies: { a: { patternProperties: { a: { properties: { z: { default: 1 } } } } } } },
  { anyOf: [{ properties: { a: { properties: { z: { default: 1 } } } } }] },
  { additionalProperties: { properties: { z: { default: 1 } } } }, { items: { properties: { z: { default: 1 } } } },
  { definitions: { t: TEXT }, properties: { a: { $ref: "#/properties/value/definitions/t" } } },
  { properties: { a: { $ref: "#/properties/value" }, b: TEXT }, type: "object" },
  { properties: { a: { description: "d", $ref: "#/properties/meta/properties/stream" } } },
];
for (const value of KEYWORDS) add(`keywords ${Object.keys(value).join(", ") || "none"}`, value, VALUES);
for (const value of [
  { minimum: 1, exclusiveMinimum: true }, { maximum: 1, exclusiveMaximum: true }, { maximum: 1, exclusiveMaximum: false },
  { required: ["a"] }, { type: "integer" }, { properties: { a: TEXT }, additionalProperties: false }, { enum: ["a", 1] },
  { const: 1 }, { contains: NUMBER }, { propertyNames: { maxLength: 1 } }, { if: NUMBER, then: { minimum: 1 } },
]) add(`keywords ${Object.keys(value).join(", ")} in draft 4`, value, VALUES, "draft-04");
for (const value of [{ type: "integer" }, { exclusiveMinimum: 1 }, { const: 1 }, { contains: NUMBER }, { if: NUMBER, then: { minimum: 1 } }])
  add(`keywords ${Object.keys(value).join(", ")} in draft 6`, value, VALUES, "draft-06");
for (const value of [
  { type: "nonsense" }, { minLength: -1 }, { required: "a" }, { enum: [] }, { pattern: "(" }, { pattern: "(?=a)a", maxLength: 9 },
  { pattern: "(a)\\1", maxLength: 9 }, { properties: [] }, { $ref: "#/definitions/none" }, { items: 1 }, { enum: "a" }, { multipleOf: 0 },
  { additionalProperties: 1 }, { nonsense: 1 }, { uniqueItems: true }, { patternProperties: { a: {} } }, { pattern: "a" },
  { pattern: "\\p{L}", maxLength: 9 }, { pattern: "^\\w+\\Z", maxLength: 9 }, { pattern: "[^]", maxLength: 9 }, { pattern: "a{,2}", maxLength: 9 },
]) add(`schema ${JSON.stringify(value)}`, value, VALUES.slice(13, 20));

// Whole events in the form of the schema repositories: a valid one, and what mutation makes of it.

const BOUNDS = { minimum: -9007199254740991, maximum: 9007199254740991 };
const PAGE = {
  type: "object",
  additionalProperties: false,
  required: ["page_id", "page_title"],
  properties: {
    page_id: { type: "integer", ...BOUNDS },
    page_title: { type: "string", minLength: 1 },
    is_redirect: { type: "boolean", default: false },
    dt: { type: "string", format: "date-time", maxLength: 128 },
    uri: { type: "string", format: "uri-reference", maxLength: 8192 },
    tags: { type: "array", items: { type: "string" }, uniqueItems: true },
    kind: { type: "string", enum: ["create", "edit", "log"] },
    length: { type: "object", properties: { old: { type: "integer", ...BOUNDS }, new: { type: "integer", ...BOUNDS } } },
    log_params: { type: "object", additionalProperties: { type: "string" } },
    slots: {
      type: "object",
      additionalProperties: { type: "object", required: ["slot_role"], properties: { slot_role: TEXT, size: { type: "integer", ...BOUNDS } } },
    },
  },
};
const PAGE_EVENT = {
  page_id: 7, page_title: "Käse", is_redirect: false, dt: "2026-01-31T12:00:00Z", uri: "/wiki/Käse", tags: ["a", "b"],
  kind: "edit", length: { old: 1, new: 2 }, log_params: { a: "b" }, slots: { main: { slot_role: "main", size: 3 } },
};
function places(value, path = []) {
  const found = [path];
  if (value && typeof value === "object")
    for (const key of Object.keys(value)) found.push(...places(value[key], [...path, key]));
  return found;
}
const STRANGE = [null, true, 1.5, -1, "", "x", "é|", [], ["a", "a"], {}, { a: 1 }, 1e21, { slot_role: 1 }];
function mutatedEvent(event) {
  let changed = JSON.parse(JSON.stringify(event));
  for (let n = 1 + Math.floor(random() * 3); n > 0; n--) {
    const path = pick(places(changed).slice(1));
    if (!path) break;
    const parent = path.slice(0, -1).reduce((value, key) => value[key], changed);
    const last = path[path.length - 1];
    const how = random();
    if (how < 0.3 && !Array.isArray(parent)) delete parent[last];
    else if (how < 0.4 && !Array.isArray(parent)) parent[`${last}_new`] = pick(STRANGE);
    else parent[last] = pick(STRANGE);
  }
  return JSON.stringify(changed);
}
function many(name, schema, event, count, draft) {
  add(name, schema, [JSON.stringify(event), ...Array.from({ length: count }, () => mutatedEvent(event))], draft);
}
many("page", PAGE, PAGE_EVENT, 250);
many("page in draft 4", PAGE, PAGE_EVENT, 60, "draft-04");
many(
  "job",
  {
    type: "object",
    required: ["type", "params"],
    properties: {
      type: { type: "string", pattern: "^[a-z]+$", maxLength: 32 },
      params: { type: "object", additionalProperties: true, required: ["title"], properties: { title: TEXT } },
      delay_until: { type: "string", format: "date-time", maxLength: 128 },
      root: { allOf: [{ type: "object", required: ["dt"] }, { properties: { dt: { type: "string", default: "now" }, by: { default: {} } } }] },
      retries: { type: ["integer", "null"], minimum: 0, default: 3 },
    },
    if: { properties: { type: { const: "purge" } } },
    then: { required: ["delay_until"] },
    else: { properties: { retries: { maximum: 9 } } },
    dependencies: { root: ["retries"], delay_until: { properties: { params: { required: ["url"] } } } },
  },
  { type: "edit", params: { title: "A", url: "u" }, delay_until: "2026-01-31T12:00:00Z", root: { dt: "x" }, retries: 2 },
  200,
);
many(
  "error",
  {
    type: "object",
    required: ["message"],
    properties: { message: { type: "string", minLength: 1 }, stack: TEXT, code: { oneOf: [TEXT, { type: "integer", minimum: 0 }] } },
    patternProperties: { "^x_": { type: "object", properties: { n: { type: "integer", default: 1 } } } },
    propertyNames: { maxLength: 20 },
    minProperties: 2,
  },
  { message: "m", stack: "s", code: 1, x_a: { n: 2 }, x_b: {} },
  150,
);

writeFileSync(new URL("ajv.ndjson", import.meta.url), `${lines.join("\n")}\n`);
console.log(`${verdicts} verdicts of AJV ${require("ajv/package.json").version}`);
