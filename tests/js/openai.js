// OpenAI's own client: answers, streams, responses, embeddings and errors. Prints what it got as JSON.
import OpenAI from "openai";

const [baseURL, question] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const asked = { model: "smollm2", messages: [{ role: "user", content: question }], temperature: 0, max_tokens: 24 };

const whole = await client.chat.completions.create(asked);
let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}
const response = await client.responses.create({
  model: "smollm2", input: question, temperature: 0, max_output_tokens: 24,
});
const types = [];
const stream = await client.responses.create({
  model: "smollm2", input: question, temperature: 0, max_output_tokens: 24, stream: true,
});
for await (const event of stream) types.push(event.type);
const embeddings = await client.embeddings.create({ model: "smollm2", input: "a cat" });
const error = await client.chat.completions.create({ ...asked, model: "nope" }).catch((thrown) => thrown);

console.log(JSON.stringify({
  whole: whole.choices[0].message.content,
  streamed,
  response: response.output_text,
  types: [...new Set(types)],
  dimensions: embeddings.data[0].embedding.length,
  error: error.constructor.name,
}));
