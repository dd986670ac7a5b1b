// Renders the gateway's OpenAPI document with Swagger UI.

const STREAM = '/v2/stream/';
const ENDS = ['until', 'limit', 'max_seconds'];
const TRIED_SECONDS = '5';

// Swagger UI shows a response when it is complete, so a stream that is tried gets an end.
function bounded(request) {
  const url = new URL(request.url, location.href);
  if (url.pathname.startsWith(STREAM) && !ENDS.some((name) => url.searchParams.has(name))) {
    url.searchParams.set('max_seconds', TRIED_SECONDS);
    request.url = String(url);
  }
  return request;
}

const dark = matchMedia('(prefers-color-scheme: dark)');
const follow = () => document.documentElement.classList.toggle('dark-mode', dark.matches);
dark.addEventListener('change', follow);
follow();

// What assistive technology needs beyond what Swagger UI does.
const accessible = {
  wrapComponents: {
    // A link in the button that opens an operation: the address bar has the link of what is open.
    DeepLink: (_, { React }) => ({ text }) => React.createElement('span', null, text),
    // The description is a region, and the headings of the tags have one above them.
    InfoContainer: (Original, { React }) => (props) => React.createElement(
      'section', { 'aria-label': 'About' },
      React.createElement(Original, props),
      React.createElement('h2', { className: 'offscreen' }, 'Operations'),
    ),
  },
};

function label(control) {
  const parameter = control.closest('[data-param-name]')?.dataset.paramName;
  const isType = control.closest('.content-type-wrapper, .response-control-media-type');
  control.setAttribute('aria-label', parameter ?? (isType ? 'Media type' : 'Request body'));
}

const MODAL = {
  '.dialog-ux .modal-ux': { role: 'dialog', 'aria-modal': 'true', 'aria-label': 'Authorization' },
  '.dialog-ux .close-modal': { 'aria-label': 'Close' },
  '.dialog-ux .modal-btn.authorize': { 'aria-label': 'Authorize' },
};

// Swagger UI names neither the fields of an operation that is tried, nor its table of responses,
// nor its dialog.
const page = document.getElementById('reference');
new MutationObserver(() => {
  page.querySelectorAll('select, textarea, td input').forEach((control) => {
    if (!control.labels?.length && !control.ariaLabel) label(control);
  });
  page.querySelectorAll('table[role=region]').forEach((table) => {
    const path = table.closest('.opblock').querySelector('.opblock-summary-path')?.textContent;
    table.setAttribute('aria-label', `Responses of ${path}`);
  });
  for (const [selector, attributes] of Object.entries(MODAL)) {
    page.querySelectorAll(selector).forEach((element) => {
      Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
    });
  }
}).observe(page, { childList: true, subtree: true });

const response = await fetch('/?spec');
const spec = await response.json();
for (const [path, item] of Object.entries(spec.paths)) {
  if (item.get?.['x-alias-of']) delete spec.paths[path];
  for (const { parameters = [] } of Object.values(item)) {
    for (const parameter of parameters) {
      // Swagger UI would begin with an example made from the schema, which no gateway accepts.
      if (parameter.in === 'header') parameter.schema = { type: 'string' };
    }
  }
}
globalThis.SwaggerUIBundle({
  spec,
  dom_id: '#reference',
  presets: [globalThis.SwaggerUIBundle.presets.apis],
  plugins: [accessible],
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  requestInterceptor: bounded,
  syntaxHighlight: { theme: 'obsidian' },
});
