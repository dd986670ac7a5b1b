// Many clients of npm `eventsource` in one process. Arguments: URL, number of clients, package.
// Prints JSON lines: {open}, the number of clients that are connected for the first time; {at}, the
// lowest event number that every client has; {fault}, what a client must never see.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [, , url, count, name] = process.argv;
const say = (item) => console.log(JSON.stringify(item));
const modules = process.env.CLIENT_MODULES;
const { exports } = JSON.parse(readFileSync(`${modules}/${name}/package.json`));
const imported = exports
  ? await import(pathToFileURL(`${modules}/${name}/${exports["."].default}`).href)
  : createRequire(`${modules}/`)(`${modules}/${name}`);
const EventSource = imported.EventSource ?? imported;

const last = new Array(Number(count)).fill(null);
const opened = new Set();
let at = -1;
setInterval(() => {}, 1 << 30); // the timer of a client that reconnects does not keep Node alive
last.forEach((_, client) => {
  const source = new EventSource(url);
  source.onopen = () => {
    if (!opened.has(client)) say({ open: opened.add(client).size });
  };
  source.onmessage = ({ data }) => {
    const { n } = JSON.parse(data);
    if (last[client] !== null && n !== last[client] + 1) {
      say({ fault: `client ${client} got ${n} after ${last[client]}` });
    }
    last[client] = n;
    const lowest = last.includes(null) ? -1 : Math.min(...last);
    if (lowest > at) say({ at: (at = lowest) });
  };
  source.onerror = ({ code, status, message }) => {
    if (source.readyState === 2) say({ fault: `client ${client} closed: ${code ?? status} ${message}` });
  };
});
