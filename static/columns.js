// Chooses the columns of a list of events: those that the stream declares, or the most useful ones.

import { h, isWeb, link } from './dom.js';
import { valueAt } from './live.js';
import { fieldsOf } from './fields.js';
import { clock } from './time.js';

const COLUMNS_MAX = 5;
const RECENT_CHANGE = 'mediawiki/recentchange';
const TEXT_CH = 14; // up to so many characters, a text has room in its column before others grow
const MEAN_CH_MAX = 60; // a longer text does not widen its column further
const NUMBERS_CH_MAX = 40; // numbers that need more than this together may be cut like texts
const TELLING = /(^|[._])(title|name|type|status|state|user|message|error|action|kind|test|id)$/i;

// Returns [{ title, isNarrow, isNumber, longest, mean, render(event) }]: `render` gives text or a list
// of nodes, `isNarrow` says that the column is shown on a phone, too, and `longest` and `mean` are
// lengths of its texts in characters.
// `streams`: [{ name, schema_title, display_fields, schema }]; `sample`: some of their events.
export function columnsOf({ streams, fields, sample }) {
  return chosenColumns({ streams, fields, sample }).map((column) => measured(column, sample));
}

function measured(column, sample) {
  const lengths = sample.map((event) => textIn(column.render(event)).length).filter(Boolean);
  const sum = lengths.reduce((all, length) => all + Math.min(length, MEAN_CH_MAX), 0);
  return {
    ...column,
    isNumber: column.isNumber ?? (column.keys !== undefined && hasNumbers(column.keys, sample)),
    longest: Math.max(column.title.length, ...lengths),
    mean: lengths.length ? sum / lengths.length : TEXT_CH,
  };
}

function hasNumbers(keys, sample) {
  const values = sample.map(({ data }) => valueAt(data, keys) ?? null).filter((it) => it !== null);
  return values.length > 0 && values.every((value) => typeof value === 'number');
}

function textIn(rendered) {
  if (typeof rendered === 'string') return rendered;
  return rendered.map((node) => node.textContent ?? node).join('');
}

// The widths of these columns, for a grid. Numbers have room for all of their digits; texts share
// what is left by the length that they mostly have.
export function widths(columns) {
  const numbers = columns.filter(({ isNumber }) => isNumber);
  const isWide = numbers.reduce((sum, { longest }) => sum + longest, 0) > NUMBERS_CH_MAX;
  const texts = Math.max(1, columns.filter(({ width, isNumber }) => !width && !isNumber).length);
  const share = Math.min(20, (numbers.length ? 70 : 80) / texts); // per cent: all of them fit
  return columns.map(({ width, isNumber, longest, mean }) => {
    if (width) return width;
    if (isNumber && !isWide) return `calc(${longest + 1}ch + .8rem)`;
    const least = Math.min(longest, TEXT_CH) + 1;
    return `minmax(min(${least}ch + .8rem, ${share}%), ${Math.max(1, mean).toFixed(1)}fr)`;
  });
}

function chosenColumns({ streams, fields, sample }) {
  const time = {
    title: 'Time',
    width: '4.75rem',
    isNarrow: true,
    render: ({ time: at }) => clock(at),
  };
  if (fields)
    return [time, ...fields.split(',').map((path) => fieldColumn(path.trim().split('.')))];
  if (streams.length === 1) return [time, ...ownColumns(streams[0], sample)];
  const byName = new Map(
    streams.map((stream) => [
      stream.name,
      ownColumns(
        stream,
        sample.filter((event) => event.stream === stream.name),
      ),
    ]),
  );
  return [
    time,
    { title: 'Stream', width: '14rem', isNarrow: false, render: ({ stream }) => stream },
    { title: 'Event', isNarrow: true, render: (event) => summary(event, byName) },
  ];
}

function ownColumns(stream, sample) {
  if (stream.display_fields?.length) {
    return stream.display_fields.map((path) => fieldColumn(path.split('.')));
  }
  if (isRecentChange(stream, sample)) return RECENT_CHANGE_COLUMNS;
  const chosen = chosenFields(stream.schema, sample);
  return chosen.length ? chosen.map(fieldColumn) : [whole];
}

const whole = {
  title: 'Event',
  isNarrow: true,
  render: ({ raw }) => raw.slice(0, 300),
};

function isRecentChange({ schema_title: title }, sample) {
  if (sample.length) return String(sample[0].data?.$schema).startsWith(`/${RECENT_CHANGE}/`);
  return title === RECENT_CHANGE;
}

// Scalar fields outside of meta: those that events have, telling and required ones first.
function chosenFields(schema, sample) {
  const known = fieldsOf(
    schema,
    sample.map(({ data }) => data),
  )
    .filter(({ keys, isScalar }) => isScalar && keys[0] !== 'meta' && keys[0] !== '$schema')
    .filter(
      ({ keys }) => !sample.length || sample.some(({ data }) => isShown(valueAt(data, keys))),
    );
  const score = ({ keys, isRequired }) =>
    (TELLING.test(keys.join('.')) ? 4 : 0) + (isRequired ? 2 : 0) - 2 * (keys.length - 1);
  const best = known
    .map((field, place) => ({ keys: field.keys, place, score: score(field) }))
    .sort((a, b) => b.score - a.score || a.place - b.place)
    .slice(0, COLUMNS_MAX);
  return best.sort((a, b) => a.place - b.place).map(({ keys }) => keys);
}

function isShown(value) {
  return value !== undefined && (value === null || typeof value !== 'object');
}

function fieldColumn(keys, place = 0) {
  return {
    title: keys.join('.'),
    keys,
    isNarrow: place < 2,
    render: ({ data }) => textOf(valueAt(data, keys)),
  };
}

export function textOf(value) {
  if (value === undefined || value === null) return '';
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

// One line for an event in a list of several streams.
function summary(event, byName) {
  if (String(event.data?.$schema).startsWith(`/${RECENT_CHANGE}/`)) return recentChangeLine(event);
  const parts = (byName.get(event.stream) ?? [])
    .filter(({ keys }) => keys)
    .flatMap((column) => {
      const text = column.render(event);
      return text === '' ? [] : [h('span', { class: 'muted' }, `${column.title} `), `${text}  `];
    });
  return parts.length ? parts : event.raw.slice(0, 300);
}

// Recent changes of wikis.

const RECENT_CHANGE_COLUMNS = [
  {
    title: 'Wiki',
    keys: ['wiki'],
    isNarrow: false,
    render: ({ data }) => textOf(data.wiki),
  },
  { title: 'Page', keys: ['title'], isNarrow: true, render: pageCell },
  { title: 'Bytes', isNarrow: true, isNumber: true, render: sizeCell },
  {
    title: 'User',
    keys: ['user'],
    isNarrow: false,
    render: ({ data }) => textOf(data.user),
  },
  {
    title: 'Comment',
    keys: ['comment'],
    isNarrow: false,
    render: ({ data }) => textOf(data.comment),
  },
];

function pageCell({ data }) {
  const title = textOf(data.title);
  const address = isWeb(data.title_url) ? data.title_url : data.meta?.uri;
  return [...marks(data), link(address, title)];
}

function marks({ type, bot, minor }) {
  const found = [];
  const mark = (text, title, kind) =>
    found.push(h('abbr', { class: `mark ${kind}`, title }, text), ' ');
  if (type === 'new') mark('new', 'A new page', 'new');
  else if (type !== undefined && type !== 'edit')
    mark(textOf(type), `Type: ${textOf(type)}`, 'other');
  if (minor === true) mark('minor', 'A minor edit', 'minor');
  if (bot === true) mark('bot', 'Made by a bot', 'bot');
  return found;
}

function sizeCell({ data }) {
  const { old: before, new: after } = Object(data.length);
  if (typeof after !== 'number') return '';
  const difference = after - (typeof before === 'number' ? before : 0);
  const kind = difference > 0 ? 'grown' : difference < 0 ? 'shrunk' : 'muted';
  const text = `${difference > 0 ? '+' : difference < 0 ? '−' : ''}${Math.abs(difference).toLocaleString('en')}`;
  return [h('span', { class: kind }, text)];
}

function recentChangeLine(event) {
  const { data } = event;
  return [
    h('span', { class: 'muted' }, `${textOf(data.wiki)} `),
    ...pageCell(event),
    ' ',
    ...[sizeCell(event)].flat(),
    ' ',
    h('span', {}, textOf(data.user)),
    h('span', { class: 'muted' }, ` ${textOf(data.comment)}`),
  ];
}
