// Lists the fields of a stream's events: those of its schema, and further ones found in events.

const DEPTH_MAX = 4;
const FIELDS_MAX = 500;
const SCALARS = new Set(['string', 'number', 'integer', 'boolean', 'null']);

// Returns [{ keys, types, description, isRequired, isScalar }], those of the schema first.
export function fieldsOf(schema, documents = []) {
  const found = new Map();
  fromSchema(schema, [], true, found);
  for (const document of documents) fromDocument(document, [], found);
  return [...found.values()];
}

// The types that a schema allows, as a list of names.
export function typesOf(schema) {
  const { type, enum: values, const: only, anyOf, oneOf } = Object(schema);
  if (type !== undefined) return [type].flat();
  if (only !== undefined) return [nameOfType(only)];
  if (Array.isArray(values)) return [...new Set(values.map(nameOfType))];
  if (anyOf ?? oneOf) return [...new Set((anyOf ?? oneOf).flatMap(typesOf))];
  return Object(schema).properties ? ['object'] : [];
}

function nameOfType(value) {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'array';
  return typeof value === 'bigint' ? 'number' : typeof value;
}

function fromSchema(schema, keys, isRequired, found) {
  const properties = Object(Object(schema).properties);
  const required = Array.isArray(schema?.required) ? schema.required : [];
  for (const [name, inner] of Object.entries(properties)) {
    const path = [...keys, name];
    const types = typesOf(inner);
    const mustBe = isRequired && required.includes(name);
    add(found, path, types, { description: Object(inner).description ?? '', isRequired: mustBe });
    if (path.length < DEPTH_MAX) fromSchema(inner, path, mustBe, found);
  }
}

function fromDocument(document, keys, found) {
  if (document === null || typeof document !== 'object' || Array.isArray(document)) return;
  for (const [name, value] of Object.entries(document)) {
    const path = [...keys, name];
    add(found, path, [nameOfType(value)], { description: '', isRequired: false });
    if (path.length < DEPTH_MAX) fromDocument(value, path, found);
  }
}

function add(found, keys, types, { description, isRequired }) {
  const id = JSON.stringify(keys);
  if (found.has(id) || found.size >= FIELDS_MAX) return;
  const isScalar = types.length > 0 && types.every((type) => SCALARS.has(type));
  found.set(id, { keys, types, description, isRequired, isScalar });
}
