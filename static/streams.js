// The list of streams: the search, the rate of each stream, and the chosen streams.

import { byId, h } from './dom.js';
import { sparkline } from './chart.js';
import { ago } from './time.js';

const EVERY_MS = 10_000;

export class Streams {
  // `onPick(names)` is called with the streams that the user chose.
  constructor({ onPick }) {
    this._onPick = onPick;
    this._entries = new Map(); // name -> { stream, element, box, ... }
    this._chosen = [];
    this._list = byId('streams');
    this._search = byId('search');
    this._found = byId('found');
    this._search.addEventListener('input', () => this._filter());
  }

  // Reads the catalogue. Throws an Error whose message can be shown to the user.
  async load() {
    const answer = await fetch('/v2/streams').catch((error) => {
      throw new Error(`The gateway cannot be reached (${error.message})`);
    });
    if (!answer.ok) throw new Error(`The list of streams cannot be read: ${answer.status}`);
    const { streams } = await answer.json();
    this._entries = new Map(
      Object.entries(streams).map(([name, stream]) => [name, this._entry(name, stream)]),
    );
    this._list.replaceChildren(...[...this._entries.values()].map(({ element }) => element));
    await this._refresh();
    setInterval(() => this._refresh(), EVERY_MS);
  }

  get names() {
    return [...this._entries.keys()];
  }

  // The stream with this name or alias, as the catalogue has it; undefined if there is none.
  get(name) {
    const found = this._entries.get(name)?.stream;
    return (
      found ??
      [...this._entries.values()]
        .map(({ stream }) => stream)
        .find(({ stream_aliases: aliases }) => aliases.includes(name))
    );
  }

  // The stream that has this topic, among these names.
  nameOfTopic(topic, names) {
    return names.find((name) => this.get(name)?.topics_allowed.includes(topic));
  }

  // The stream with the most recent events. The page shows it until the user chooses streams.
  get busiest() {
    const busy = [...this._entries.values()].sort(
      (a, b) => b.recent - a.recent || b.newest - a.newest,
    );
    return busy[0]?.stream.stream;
  }

  choose(names) {
    this._chosen = names;
    const chosen = names.map((name) => this.get(name)?.stream ?? name); // of aliases, too
    for (const [name, { box, pick }] of this._entries) {
      box.checked = chosen.includes(name);
      if (chosen.length === 1 && chosen[0] === name) pick.setAttribute('aria-current', 'true');
      else pick.removeAttribute('aria-current');
    }
  }

  _entry(name, stream) {
    const box = h('input', { type: 'checkbox', 'aria-label': `Also read ${name}` });
    const last = h('span', { class: 'last muted' });
    const line = h('span', { class: 'line' });
    const pick = h(
      'button',
      { type: 'button', class: 'pick' },
      h('span', { class: 'name' }, name),
      h('span', { class: 'about muted' }, stream.description ?? ''),
      h('span', { class: 'busy' }, last, line),
    );
    box.addEventListener('change', () => {
      const others = this._chosen.filter((other) => other !== name);
      const names = box.checked ? [...others, name] : others;
      if (names.length) this._onPick(names);
      else box.checked = true;
    });
    pick.addEventListener('click', () => this._onPick([name]));
    const element = h('li', {}, box, pick);
    const words = [
      name,
      ...stream.stream_aliases,
      stream.description ?? '',
      stream.schema_title ?? '',
    ];
    return {
      stream,
      element,
      box,
      pick,
      last,
      line,
      words: words.join(' ').toLowerCase(),
      recent: 0,
      newest: 0,
    };
  }

  _filter() {
    const wanted = this._search.value.trim().toLowerCase().split(/\s+/);
    let shown = 0;
    for (const { element, words } of this._entries.values()) {
      element.hidden = !wanted.every((word) => words.includes(word));
      shown += element.hidden ? 0 : 1;
    }
    this._found.textContent = shown ? '' : 'No stream has these words in its name or description.';
  }

  async _refresh() {
    let activity;
    try {
      activity = await (await fetch('/v2/streams/activity')).json();
    } catch {
      return; // the next look may succeed
    }
    const { streams, step_seconds: step } = activity;
    for (const [name, entry] of this._entries) {
      const found = streams?.[name];
      if (!found) {
        entry.last.textContent = entry.stream.scope ? 'Needs a token' : '';
        continue;
      }
      entry.newest = found.newest ? Date.parse(found.newest) : 0;
      entry.recent = found.events.reduce((sum, count) => sum + count, 0);
      const rate = entry.recent / Math.max(1, found.events.length * step);
      const drawing = sparkline(found.events, `${rate.toFixed(1)} events per second recently`);
      entry.last.textContent = entry.newest ? ago(entry.newest) : 'No events yet';
      if (entry.newest) entry.last.title = new Date(entry.newest).toISOString();
      entry.line.replaceChildren(...(drawing ? [drawing] : []));
    }
  }
}
