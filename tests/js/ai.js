// Vercel's AI SDK, over OpenAI's API. Prints what it got as JSON.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateText, streamText } from "ai";

const [baseURL, question] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: "ferrule", baseURL, apiKey: "none", includeUsage: true });
const asked = { model: provider("smollm2"), prompt: question, temperature: 0, maxOutputTokens: 24, maxRetries: 0 };

const whole = await generateText(asked);
const stream = streamText(asked);
let streamed = "";
for await (const piece of stream.textStream) streamed += piece;
const { embedding } = await embed({ model: provider.textEmbeddingModel("smollm2"), value: "a cat", maxRetries: 0 });

console.log(JSON.stringify({
  whole: whole.text,
  streamed,
  finishReason: whole.finishReason,
  outputTokens: (await stream.usage).outputTokens,
  dimensions: embedding.length,
}));
