// KafkaSSE as EventStreams 0.8.0 mounts it: `node kafka_sse.js FOLDER BROKER STREAMS`, where
// FOLDER has kafka-sse installed. STREAMS is JSON, names to lists of topics. Prints its port. What is not
// KafkaSSE's own, the answers for unknown streams and pages, is left out.
"use strict";

const http = require("http");
const { createRequire } = require("module");
const kafkaSse = createRequire(process.argv[2] + "/")("kafka-sse");

const [broker, streams] = [process.argv[3], JSON.parse(process.argv[4])];

// eventstreams-util.js: where an event is in Kafka goes into its `meta`.
function deserializer(kafkaMessage) {
  const { topic, partition, offset } = kafkaMessage;
  const message = JSON.parse(kafkaMessage.value.toString());
  message.meta = Object.assign({}, message.meta, { topic, partition, offset });
  kafkaMessage.message = message;
  return kafkaMessage;
}

const server = http.createServer((request, response) => {
  const url = new URL(request.url, "http://gateway");
  const names = decodeURIComponent(url.pathname.replace("/v2/stream/", "")).split(",");
  const topics = [...new Set(names.flatMap((name) => streams[name] || [name]))];
  response.setHeader("access-control-allow-origin", "*");
  response.setHeader("access-control-allow-headers", "accept, x-requested-with, content-type");
  if (request.method === "OPTIONS") {
    response.end("GET,HEAD");
    return;
  }
  // routes/stream.js: a number is passed on as the text that it is.
  let since = url.searchParams.get("since") || undefined;
  if (since !== undefined && isNaN(since)) {
    since = Date.parse(since);
    if (isNaN(since)) {
      response.statusCode = 400;
      response.end();
      return;
    }
  }
  const options = {
    kafkaConfig: { "metadata.broker.list": broker },
    allowedTopics: topics,
    useTimestampForId: true,
    deserializer,
  };
  kafkaSse(request, response, topics, options, since).catch(() => {});
});

server.listen(0, "127.0.0.1", () => {
  console.log(server.address().port);
  process.stdout.write = () => true; // its log, which nobody reads
});
