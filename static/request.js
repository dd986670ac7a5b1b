// The request of the page as one object, and its forms in the page's address and in the gateway's.

const EMPTY = { streams: [], filter: '', fields: '', since: '', until: '', speed: 'full' };
export const SPEEDS = { 1: '1×', 10: '10×', full: 'Full speed' };
export const REPLAY_SPEED = '10'; // unless a person or a link chooses another one

// The request in the fragment of an address, such as #?streams=a,b&filter=event.n%3E1.
export function fromHash(hash) {
  const query = new URLSearchParams(hash.replace(/^#\/?\??/, ''));
  const text = (name) => (query.get(name) ?? '').trim();
  return {
    streams: text('streams').split(',').filter(Boolean),
    filter: text('filter'),
    fields: text('fields'),
    since: text('since'),
    until: text('until'),
    speed: text('speed') in SPEEDS ? text('speed') : EMPTY.speed,
  };
}

export function toHash(request) {
  const query = parameters(request);
  if (request.since && request.speed !== EMPTY.speed) query.set('speed', request.speed);
  const streams = request.streams.map(encodeURIComponent).join(',');
  return `#?streams=${streams}${query.size ? `&${query}` : ''}`;
}

// The query of this request for streams, without their names.
export function parameters({ filter, fields, since, until }) {
  const given = { filter, fields: fields.replace(/\s+/g, ''), since, until };
  return new URLSearchParams(Object.entries(given).filter(([, value]) => value.trim()));
}

export function path(request) {
  return `/v2/stream/${request.streams.map(encodeURIComponent).join(',')}`;
}

const TEXT = String.raw`'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"`;
const TERM = new RegExp(
  String.raw`^(event(?:\.\w+|\[(?:${TEXT})\])+)\s*([=!]=)\s*(?:${TEXT}|-?[\d.]+(?:e[+-]?\d+)?|true|false|null)$`,
);

// Adds a condition, as `condition` writes it, to a filter; removes it where the filter has it already.
//
// Existing conditions on the same field are removed if they would make the new one pointless: `==`
// replaces all of them, and `!=` those with `==`.
export function narrowed(filter, condition) {
  const terms = termsOf(filter);
  if (terms.includes(condition)) return terms.filter((term) => term !== condition).join(' && ');
  const [, field, operator] = condition.match(TERM) ?? [];
  const gives = (term) => {
    const [, other, compared] = term.match(TERM) ?? [];
    return other !== undefined && other === field && (operator === '==' || compared === '==');
  };
  return [...terms.filter((term) => !gives(term)), condition].join(' && ');
}

// The parts of a filter that `&&` joins. A filter that other operators join is one part, in
// parentheses, because they bind less than `&&`; so is one whose texts cannot be told from the rest.
function termsOf(filter) {
  const whole = filter.trim();
  if (!whole) return [];
  const terms = [''];
  let depth = 0;
  let isOne = false;
  for (const [piece] of whole.matchAll(new RegExp(`${TEXT}|&&|\\|\\||.`, 'gsu'))) {
    if ('([{'.includes(piece)) depth += 1;
    else if (')]}'.includes(piece)) depth -= 1;
    const isRaw = /^['"]./.test(piece) && /\b[rb]{1,2}$/i.test(terms.at(-1));
    const isTriple = /^(''|"")$/.test(piece) && /['"]$/.test(terms.at(-1));
    const isOpen = piece === "'" || piece === '"';
    if (depth === 0 && (piece === '||' || piece === '?')) isOne = true;
    if (isRaw || isTriple || isOpen) return [`(${whole})`];
    if (piece === '&&' && depth === 0) terms.push('');
    else terms[terms.length - 1] += piece;
  }
  return isOne ? [`(${whole})`] : terms.map((term) => term.trim());
}

// The condition that a field has this value, or has not; null if none can be written.
export function condition(keys, value, isWanted) {
  const literal = literalOf(value);
  const field = reference(keys);
  if (literal === null || field === null) return null;
  return `${field} ${isWanted ? '==' : '!='} ${literal}`;
}

const RESERVED = new Set(
  (
    'as break const continue else false for function if import in let loop ' +
    'namespace null package return true var void while'
  ).split(' '),
);

// The CEL expression of a field such as ['meta', 'dt']; null for one within a list.
export function reference(keys) {
  if (keys.some((key) => typeof key === 'number')) return null;
  return keys.reduce(
    (before, key) =>
      /^[A-Za-z_]\w*$/.test(key) && !RESERVED.has(key)
        ? `${before}.${key}`
        : `${before}[${quoted(key)}]`,
    'event',
  );
}

function literalOf(value) {
  if (value === null || typeof value === 'boolean' || typeof value === 'bigint')
    return String(value);
  if (typeof value === 'number') return Number.isFinite(value) ? String(value) : null;
  return typeof value === 'string' ? quoted(value) : null;
}

function quoted(text) {
  return `'${text
    .replace(/[\\']/g, '\\$&')
    .replace(
      /[\u0000-\u001f\u007f\u2028\u2029]/g,
      (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
    )}'`;
}
