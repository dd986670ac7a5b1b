// Writes eventgate.ndjson: what EventGate 1.8.4 answers to requests, and what it writes.
//
// EventGate is not on npm: clone github.com/wikimedia/eventgate at 3d793d8, `npm install` there, and
// start it with schema_base_uris set to config/schemas of this repository and output_path to a file:
//   node eventgate.mjs http://localhost:8192 OUTPUT_PATH
// Each line: {"name", "headers", "query", "body": base64, "status", "reason", "answer", "written"}.
import { readFileSync, writeFileSync } from "node:fs";
import http from "node:http";
import { deflateSync, gzipSync } from "node:zlib";

const [, , address, output] = process.argv;
const META = { stream: "eventstreams.test", dt: "2026-01-31T12:00:00Z" };
const event = (more = {}) => ({ $schema: "/test/event/1.0.0", meta: META, test: "a", ...more });
const text = (value) => Buffer.from(typeof value === "string" ? value : JSON.stringify(value));
const requests = [];
function add(name, body, headers = {}, query = "") {
  const type = { "content-type": "application/json" };
  requests.push({ name, headers: { ...type, ...headers }, query, body: text(body) });
}
function raw(name, body, headers) {
  requests.push({ name, headers: { "content-type": "application/json", ...headers }, query: "", body });
}

add("valid", event());
add("two valid", [event(), event({ test: "b" })]);
add("invalid", event({ test: 1 }));
add("invalid and valid", [event({ test: 1 }), event()]);
add("two invalid", [event({ test: 1 }), event({ test_map: { a: 1, "b'c": 2 } })]);
add("all kinds", [event({ test: 1 }), event(), { ...event(), $schema: "/none/1.0.0" }]);
add("without test", { $schema: "/test/event/1.0.0", meta: META });
for (const body of ["", "{}", "[]", " ", "null", "42", '"a"', "{", "[1", '{"a":}', "[]]", "{}{}"]) add(`body ${body}`, body);
for (const body of [[1], ["a"], [null], [{}], [[]], { a: 1 }, [{ $schema: null }], [{ $schema: "/none/1.0.0" }]])
  add(`no event ${JSON.stringify(body)}`, body);
for (const uri of ["/test/event/1.0.0.yaml", "/test/event/1.0.0.json", "/none/1.0.0", "/test/event/9.9.9"])
  add(`schema ${uri}`, { ...event(), $schema: uri });
for (const hasty of ["true", "1", "false", "0", "", "x"]) add(`hasty ${hasty}`, event(), {}, `?hasty=${hasty}`);
for (const type of [
  "application/json", "application/json; charset=utf-8", "application/json;charset=UTF-8", "text/plain",
  "text/plain;charset=UTF-8", "application/reports+json", "application/cloudevents+json", "text/html",
  "application/x-www-form-urlencoded", "application/json; charset=latin-1", "application/JSON",
]) add(`type ${type}`, event(), { "content-type": type });
const packed = gzipSync(text(event()));
raw("gzip", packed, { "content-encoding": "gzip" });
raw("gzip of two members", Buffer.concat([gzipSync(text("[")), gzipSync(text(`${JSON.stringify(event())}]`))]), { "content-encoding": "gzip" });
raw("gzip with an empty member", Buffer.concat([gzipSync(text("")), packed]), { "content-encoding": "gzip" });
raw("gzip with zeros after it", Buffer.concat([packed, Buffer.alloc(9)]), { "content-encoding": "gzip" });
raw("gzip cut off", packed.subarray(0, packed.length - 9), { "content-encoding": "gzip" });
raw("deflate", deflateSync(text(event())), { "content-encoding": "deflate" });
raw("no gzip", text(event()), { "content-encoding": "gzip" });
raw("identity", text(event()), { "content-encoding": "identity" });
raw("unknown coding", text(event()), { "content-encoding": "zork" });
for (const uri of ["https://a/b?c=A|B", "https://de.wikipedia.org/wiki/Käse", "/a b", "", "#\\", "a:b", "//h/p", "\\"])
  add(`uri ${uri}`, event({ meta: { ...META, uri } }));
for (const dt of ["2021-19-39T29:59:59Z", "2026-01-01T00:00:61Z", "2026-01-01 00:00:00Z", "2026-01-01T00:00:00+01", "now", "2026-01-01T00:00:00"])
  add(`dt ${dt}`, event({ meta: { ...META, dt } }));
for (const value of ["1", "1.0", "-0.0", "1e2", "12345678901234567890", "1.5", "1e21", "9007199254740993", "null", "true", "[1.0]", '{"a":1}', '"a"'])
  add(`test_map ${value}`, `{"$schema":"/test/event/1.0.0","meta":${JSON.stringify(META)},"extra":${value},"test":"a"}`);
for (const value of ["1", "null", "true", "[]", "{}", '""', '"\\u0000"', '"é"', '"😀"', '"\\ud83d\\ude00"'])
  add(`test ${value}`, `{"$schema":"/test/event/1.0.0","meta":${JSON.stringify(META)},"test":${value}}`);
raw("invalid UTF-8", Buffer.concat([text('{"$schema":"/test/event/1.0.0","meta":{"stream":"eventstreams.test","dt":"2026-01-31T12:00:00Z"},"test":"'), Buffer.from([0xff]), text('"}')]));
add("duplicate keys", `${JSON.stringify(event()).slice(0, -1)},"test":"last"}`);

function post({ headers, query, body }) {
  return new Promise((resolve, reject) => {
    const request = http.request(`${address}/v1/events${query}`, { method: "POST", headers: { ...headers, "content-length": body.length } }, (answer) => {
      const parts = [];
      answer.on("data", (part) => parts.push(part));
      answer.on("end", () => resolve({ status: answer.statusCode, reason: answer.statusMessage, answer: Buffer.concat(parts).toString() }));
    });
    request.on("error", reject);
    request.end(body);
  });
}
const writtenLines = () => readFileSync(output, "utf-8").split("\n").slice(0, -1);

const lines = [];
for (const request of requests) {
  const before = writtenLines().length;
  const { status, reason, answer } = await post(request);
  await new Promise((done) => setTimeout(done, 50));
  lines.push(JSON.stringify({ ...request, body: request.body.toString("base64"), status, reason, answer, written: writtenLines().slice(before) }));
}
writeFileSync(new URL("eventgate.ndjson", import.meta.url), `${lines.join("\n")}\n`);
console.log(`${lines.length} answers of EventGate`);
