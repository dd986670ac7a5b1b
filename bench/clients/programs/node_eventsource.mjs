// npm eventsource, the version that the second argument names: reconnects by itself. A third
// argument leaves the process with nothing to wait for but the stream.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [, , url, name, alone] = process.argv;
const say = (item) => console.log(JSON.stringify(item));
const modules = process.env.CLIENT_MODULES;
const { version, exports } = JSON.parse(readFileSync(`${modules}/${name}/package.json`));
say({ version: `eventsource ${version}, Node ${process.versions.node}` });

const imported = exports
  ? await import(pathToFileURL(`${modules}/${name}/${exports["."].default}`).href)
  : createRequire(`${modules}/`)(`${modules}/${name}`);
const EventSource = imported.EventSource ?? imported;
const source = new EventSource(url);
source.onmessage = ({ type, data, lastEventId }) => say({ event: type, data, id: lastEventId });
source.onerror = ({ code, status, message }) => {
  const reason = [code ?? status, message].filter(Boolean).join(" ");
  if (source.readyState === 2 || code || status) say({ error: reason || "closed" });
};
if (!alone) setInterval(() => {}, 1 << 30);
