// Shows the request as code in several languages. Each example runs unchanged and resumes by itself.

import { byId, copyButton, h } from './dom.js';
import { parameters, path } from './request.js';

const KINDS = { curl, JavaScript: javaScript, Python: python, Go: go, Link: () => location.href };

export class Snippets {
  constructor() {
    this._kind = 'curl';
    this._code = h('pre', { tabindex: '0', 'aria-label': 'The request as code' });
    this._buttons = Object.keys(KINDS).map((kind) =>
      h(
        'button',
        {
          type: 'button',
          class: 'segment',
          'aria-pressed': String(kind === this._kind),
          onclick: () => this._pick(kind),
        },
        kind,
      ),
    );
    byId('code').append(
      h('p', {}, 'The same request, to run elsewhere. All except curl resume after a disconnect.'),
      h(
        'div',
        { class: 'tools' },
        h('div', { class: 'segments', role: 'group', 'aria-label': 'Language' }, ...this._buttons),
        copyButton('Copy', () => this._code.textContent),
      ),
      this._code,
    );
  }

  show(request, { needsToken = false } = {}) {
    this._request = request;
    this._needsToken = needsToken;
    this._code.textContent = KINDS[this._kind](request, needsToken);
  }

  _pick(kind) {
    this._kind = kind;
    for (const button of this._buttons)
      button.setAttribute('aria-pressed', String(button.textContent === kind));
    this.show(this._request, { needsToken: this._needsToken });
  }
}

function address(request) {
  const query = parameters(request);
  return `${location.origin}${path(request)}${query.size ? `?${query}` : ''}`;
}

function curl(request, needsToken) {
  // In double quotes where a text has single ones and nothing that a shell would replace there.
  const shell = (text) =>
    text.includes("'") && !/["$`\\!]/.test(text)
      ? `"${text}"`
      : `'${text.replaceAll("'", `'\\''`)}'`;
  const lines = [`curl -N -G ${shell(location.origin + path(request))}`];
  if (needsToken) lines.push("-H 'Authorization: Bearer TOKEN'");
  for (const [name, value] of parameters(request))
    lines.push(`--data-urlencode ${shell(`${name}=${value}`)}`);
  return lines.join(' \\\n  ');
}

function javaScript(request, needsToken) {
  const url = `const url = new URL(${JSON.stringify(location.origin + path(request))});\n${[
    ...parameters(request),
  ]
    .map(
      ([name, value]) =>
        `url.searchParams.set(${JSON.stringify(name)}, ${JSON.stringify(value)});\n`,
    )
    .join('')}`;
  const ticket = needsToken
    ? `const answer = await fetch(new URL('/v2/ticket', url), {
  method: 'POST', headers: { Authorization: 'Bearer TOKEN' },
});
url.searchParams.set('ticket', (await answer.json()).ticket);  // good for one connection
`
    : '';
  return `${url}${ticket}
const stream = new EventSource(url);  // comes back with the last id by itself
stream.onmessage = ({ data }) => console.log(JSON.parse(data));
stream.addEventListener('gap', ({ data }) => console.warn('no longer kept:', data));
stream.onerror = () => {
  if (stream.readyState === EventSource.CLOSED) console.log('refused or ended');
};
`;
}

function python(request, needsToken) {
  return `import json
import time

import httpx  # pip install httpx

URL = ${JSON.stringify(address(request))}
last_id = ""
while True:
    headers = {"Accept": "text/event-stream"${needsToken ? ', "Authorization": "Bearer TOKEN"' : ''}}
    if last_id:
        headers["Last-Event-ID"] = last_id
    try:
        with httpx.stream("GET", URL, headers=headers, timeout=60) as response:
            if response.status_code == 204:
                break  # the end of the stream
            response.raise_for_status()
            frame = {}
            for line in response.iter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    frame[name] = value
                    continue
                if "data" in frame and frame["event"] == "message":
                    print(json.loads(frame["data"]))
                last_id = frame.get("id", last_id)
                frame = {}
    except httpx.TransportError as error:
        print("cut:", error)
    time.sleep(1)
`;
}

function go(request, needsToken) {
  const token = needsToken ? '\n\t\trequest.Header.Set("Authorization", "Bearer TOKEN")' : '';
  return `package main

import (
	"bufio"
	"fmt"
	"log"
	"net/http"
	"strings"
	"time"
)

const url = ${JSON.stringify(address(request))}

func main() {
	lastID := ""
	for {
		request, err := http.NewRequest("GET", url, nil)
		if err != nil {
			log.Fatal(err)
		}
		request.Header.Set("Accept", "text/event-stream")${token}
		if lastID != "" {
			request.Header.Set("Last-Event-ID", lastID)
		}
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			if response.StatusCode == http.StatusNoContent {
				return // the end of the stream
			}
			if response.StatusCode != http.StatusOK {
				log.Fatal(response.Status)
			}
			lines := bufio.NewScanner(response.Body)
			lines.Buffer(nil, 16<<20)
			event, data, id := "", "", ""
			for lines.Scan() {
				name, value, _ := strings.Cut(lines.Text(), ": ")
				switch name {
				case "event":
					event = value
				case "data":
					data = value
				case "id":
					id = value
				case "":
					if event == "message" && data != "" {
						fmt.Println(data)
					}
					if id != "" {
						lastID = id
					}
					event, data, id = "", "", ""
				}
			}
			response.Body.Close()
		}
		time.Sleep(time.Second)
	}
}
`;
}
