// Many clients of npm `eventsource` in one process. Arguments: URL, number of clients, package.
// Prints JSON lines: {open}, the number of clients that are connected for the first time; {at}, the
// lowest event number that every client has; {received}, how many events all clients have received;
// {fault}, what a client must never see; {repeats}, how many events eventsource 2 dispatched twice
// because it was cut within them. A line on standard input is answered with {states}.
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

// Version 2 keeps the `data:` line of a frame that is cut before its `id:` line, and dispatches it
// with the first frame of the next connection: under the id of the event before, and then again.
const repeatsTorn = name === "eventsource2";
const last = new Array(Number(count)).fill(null);
const lastId = new Array(Number(count)).fill("");
const torn = new Array(Number(count)).fill(null); // the number of an event that came so
let repeats = 0;
const opened = new Set();
let at = -1;
let received = 0;
setInterval(() => say({ received }), 1000); // it also keeps Node alive while all clients wait
const sources = last.map(() => new EventSource(url));
process.stdin.on("data", () => {
  say({ states: sources.map(({ readyState }, client) => [client, readyState, last[client]]) });
});
sources.forEach((source, client) => {
  source.onopen = () => {
    if (!opened.has(client)) say({ open: opened.add(client).size });
  };
  source.onmessage = ({ data, lastEventId }) => {
    const { n } = JSON.parse(data);
    const again = n === last[client] && n === torn[client];
    if (again) {
      say({ repeats: (repeats += 1) });
    } else if (last[client] !== null && n !== last[client] + 1) {
      say({ fault: `client ${client} got ${n} after ${last[client]}` });
    }
    torn[client] = repeatsTorn && !again && lastId[client] && lastEventId === lastId[client] ? n : null;
    last[client] = n;
    lastId[client] = lastEventId;
    received += 1;
    const lowest = last.includes(null) ? -1 : Math.min(...last);
    if (lowest > at) say({ at: (at = lowest) });
  };
  source.onerror = ({ code, status, message }) => {
    if (source.readyState === 2) say({ fault: `client ${client} closed: ${code ?? status} ${message}` });
  };
});
