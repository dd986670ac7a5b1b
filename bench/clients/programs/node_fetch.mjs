// Node's own fetch with a parser by hand: the whole of a client in thirty lines.
const url = process.argv[2];
const say = (item) => console.log(JSON.stringify(item));
say({ version: `Node ${process.versions.node}` });

let lastId;
for (let connection = 0; connection < 4; connection++) {
  try {
    const headers = { accept: "text/event-stream" };
    if (lastId !== undefined) headers["last-event-id"] = lastId;
    const response = await fetch(url, { headers });
    if (response.status !== 200) throw new Error(`status ${response.status}`);
    let event = {};
    let rest = "";
    for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
        if (line !== "") event[field] = field === "data" && event.data ? `${event.data}\n${value}` : value;
        else {
          if (event.id !== undefined) lastId = event.id; // also where there is no data
          if (event.data !== undefined) say({ event: event.event, data: event.data, id: lastId });
          event = {};
        }
      }
    }
    say({ end: "ends without an error" });
  } catch (error) {
    say({ error: `${error.name}: ${error.message}` });
  }
  await new Promise((resume) => setTimeout(resume, 100));
}
