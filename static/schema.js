// Shows the schema of a stream's events: fields with their types and descriptions, and an example.

import { byId, copyButton, h } from './dom.js';
import { print, tree } from './json.js';
import { typesOf } from './fields.js';

const schemas = new Map(); // URI -> promise of a schema

// The newest schema with this title, or null where there is none.
export function newestSchema(title) {
  return title ? schemaAt(`${title}/latest`) : Promise.resolve(null);
}

function schemaAt(uri) {
  if (!schemas.has(uri)) {
    const reading = fetch(`/v1/schemas/${uri}`).then((answer) =>
      answer.ok ? answer.json() : null,
    );
    schemas.set(
      uri,
      reading.catch(() => {
        schemas.delete(uri);
        return null;
      }),
    );
  }
  return schemas.get(uri);
}

export class SchemaView {
  constructor() {
    this._panel = byId('schema');
    this._shown = null;
  }

  // Shows the schemas of these streams, the first of them in its newest version.
  async show(streams) {
    const titles = [...new Set(streams.map(({ schema_title: title }) => title).filter(Boolean))];
    const wanted = titles.join();
    if (wanted === this._shown) return;
    this._shown = wanted;
    if (!titles.length) {
      this._panel.replaceChildren(
        h(
          'p',
          { class: 'muted' },
          'No schema is declared for this stream. Events may have any fields.',
        ),
      );
      return;
    }
    const uris = await fetch('/v1/schemas')
      .then((answer) => answer.json())
      .catch(() => null);
    if (wanted !== this._shown) return;
    if (uris === null) {
      this._shown = null; // the next attempt may succeed
      return;
    }
    this._panel.replaceChildren(...titles.map((title) => this._section(title, uris)));
  }

  _section(title, uris) {
    const versions = uris
      .filter((uri) => uri.slice(1, uri.lastIndexOf('/')) === title)
      .map((uri) => uri.slice(uri.lastIndexOf('/') + 1))
      .reverse();
    const content = h('div', {});
    const choice = h(
      'select',
      { 'aria-label': `Version of ${title}` },
      h('option', { value: 'latest' }, 'latest'),
      ...versions.map((version) => h('option', { value: version }, version)),
    );
    const fill = async () => {
      const uri = `${title}/${choice.value}`;
      const schema = await schemaAt(uri);
      content.replaceChildren(
        ...(schema
          ? parts(schema, uri)
          : [h('p', { class: 'muted' }, 'The gateway has no schema with this title.')]),
      );
    };
    choice.addEventListener('change', fill);
    fill();
    return h(
      'section',
      { class: 'schema' },
      h('div', { class: 'tools' }, h('h2', {}, title), choice),
      content,
    );
  }
}

function parts(schema, uri) {
  const example = Array.isArray(schema.examples) ? schema.examples[0] : undefined;
  return [
    schema.description && h('p', {}, String(schema.description)),
    h(
      'p',
      { class: 'muted' },
      h('a', { href: `/v1/schemas/${uri}.json` }, 'JSON'),
      ' · ',
      h('a', { href: `/v1/schemas/${uri}.yaml` }, 'YAML'),
      schema.additionalProperties === false
        ? ' · no further fields are allowed'
        : ' · further fields are allowed',
    ),
    fieldList(schema, 0),
    example !== undefined &&
      h(
        'div',
        { class: 'tools' },
        h('h3', {}, 'Example'),
        copyButton('Copy', () => print(example)),
      ),
    example !== undefined && tree(example, null),
  ].filter(Boolean);
}

function fieldList(schema, depth) {
  const required = new Set(Array.isArray(schema.required) ? schema.required : []);
  const entries = Object.entries(Object(schema.properties)).sort(
    ([a], [b]) => Number(required.has(b)) - Number(required.has(a)),
  );
  return h(
    'ul',
    { class: 'fields' },
    ...entries.map(([name, inner]) => field(name, Object(inner), required.has(name), depth)),
  );
}

function field(name, schema, isRequired, depth) {
  const inner = schema.properties ? schema : Object(schema.items).properties ? schema.items : null;
  const head = [
    h('code', {}, name),
    ' ',
    h('span', { class: 'type' }, typeText(schema)),
    isRequired && h('span', { class: 'required' }, 'required'),
    h('span', { class: 'description' }, String(schema.description ?? ''), limits(schema)),
  ];
  if (!inner || depth > 8) return h('li', {}, h('div', { class: 'field' }, ...head));
  return h(
    'li',
    {},
    h(
      'details',
      { open: depth < 1 && Object.keys(inner.properties).length <= 8 },
      h('summary', { class: 'field' }, ...head),
      fieldList(inner, depth + 1),
    ),
  );
}

function typeText(schema) {
  const types = typesOf(schema).map((type) =>
    type === 'array' && schema.items
      ? `list of ${typesOf(schema.items).join(' or ') || 'anything'}`
      : type,
  );
  return types.join(' or ') || 'anything';
}

// Lists further conditions on a value that fit in a line. The limits of exact integers, which every
// integer of the platform has, are left out.
function limits(schema) {
  const {
    format,
    enum: values,
    const: only,
    pattern,
    minimum,
    maximum,
    minLength,
    maxLength,
    default: usual,
  } = schema;
  const conditions = [
    format && `format ${format}`,
    Array.isArray(values) &&
      `one of ${values
        .slice(0, 12)
        .map((value) => JSON.stringify(value))
        .join(', ')}${values.length > 12 ? ' …' : ''}`,
    only !== undefined && `always ${JSON.stringify(only)}`,
    pattern && `matches ${pattern}`,
    minimum !== undefined && minimum !== Number.MIN_SAFE_INTEGER && `at least ${minimum}`,
    maximum !== undefined && maximum !== Number.MAX_SAFE_INTEGER && `at most ${maximum}`,
    minLength > 1 && `${minLength} characters or more`,
    minLength === 1 && 'not empty',
    maxLength !== undefined && `${maxLength} characters or fewer`,
    usual !== undefined && `default ${JSON.stringify(usual)}`,
  ].filter(Boolean);
  return conditions.length > 0 && h('span', { class: 'limits muted' }, conditions.join(' · '));
}
