// Requests to the server that this page is from.

let token = sessionStorage.getItem("token");
const authorization = () => (token ? { Authorization: `Bearer ${token}` } : {});

function askForToken() {
  token = prompt("The token of this server");
  if (!token) throw new Error("this server wants its token");
  sessionStorage.setItem("token", token);
}

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: authorization() });
  if (answer.status === 401) {
    askForToken();
    return ask(path, options);
  }
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer;
}

const json = async (path, options) => (await ask(path, options)).json();
const blob = async (path) => (await ask(path)).blob();

export const models = async () => (await json("/v1/models")).data;
export const example = () => blob("/page/example.mp4");
export const report = (id) => json(`/v1/sounds/${id}`);
export const content = (id, query) => blob(`/v1/sounds/${id}/content?${query}`);
export const spectrogram = (id, query) => json(`/v1/sounds/${id}/spectrogram?${query}`);
export const preview = (id, format) => blob(`/v1/sounds/${id}/preview?format=${format}`);
export const remove = (id) => ask(`/v1/sounds/${id}`, { method: "DELETE", keepalive: true });
export const regenerate = (id, query, signal) =>
  json(`/v1/sounds/${id}/regenerate?${query}`, { method: "POST", signal });

// onSent: told the share of the video that has left; fetch does not tell.
export async function create(video, query, signal, onSent) {
  const { status, text } = await send(`/v1/sounds?${query}`, video, signal, onSent);
  if (status === 401) {
    askForToken();
    return create(video, query, signal, onSent);
  }
  const answer = JSON.parse(text);
  if (status >= 400) throw new Error(answer.error);
  return answer;
}

function send(path, body, signal, onSent) {
  const request = new XMLHttpRequest();
  return new Promise((resolve, reject) => {
    request.open("POST", path);
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.upload.onprogress = ({ loaded, total }) => onSent(loaded / total);
    request.onload = () => resolve({ status: request.status, text: request.responseText });
    request.onerror = () => reject(new Error("the server cannot be reached, or did not take the video"));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(body);
  });
}

// Each report of a sound until it is over.
export async function* reports(id) {
  const body = (await ask(`/v1/sounds/${id}/events`)).body;
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const data = event.split("\n").find((line) => line.startsWith("data: "));
      if (data) yield JSON.parse(data.slice(6));
    }
  }
}
