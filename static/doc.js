// Renders the service's OpenAPI document as a page.
'use strict';

function element(tag, text, ...children) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function row(...cells) {
  return element('tr', '', ...cells.map((text) => element('td', text)));
}

function table(head, rows) {
  const heads = element('tr', '', ...head.map((text) => element('th', text)));
  return element('table', '', element('thead', '', heads), element('tbody', '', ...rows));
}

function section(path, { get }) {
  const parts = [element('h2', `GET ${path}`), element('p', get.description ?? get.summary)];
  if (get.parameters?.length) {
    parts.push(table(['Parameter', 'In', 'Meaning'], get.parameters.map(
      (parameter) => row(parameter.name, parameter.in, parameter.description ?? ''))));
  }
  parts.push(table(['Status', 'Meaning'], Object.entries(get.responses).map(
    ([status, answer]) => row(status, answer.description))));
  return element('section', '', ...parts);
}

fetch('/?spec').then((answer) => answer.json()).then((spec) => {
  document.getElementById('version').textContent = spec.info.version;
  document.getElementById('about').textContent = spec.info.description;
  const sections = Object.entries(spec.paths).map(([path, item]) => section(path, item));
  document.getElementById('paths').append(...sections);
});
