// Requests to the server that this page is from.

let token = sessionStorage.getItem("token");

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) {
    token = prompt("The token of this server");
    if (!token) throw new Error("this server wants its token");
    sessionStorage.setItem("token", token);
    return ask(path, options);
  }
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer;
}

export const models = async () => (await (await ask("/v1/models")).json()).data;

export const create = async (video, query) =>
  (await ask(`/v1/sounds?${query}`, { method: "POST", body: video })).json();

export const regenerate = async (id, query) =>
  (await ask(`/v1/sounds/${id}/regenerate?${query}`, { method: "POST" })).json();

export const content = async (id, candidate, format) =>
  (await ask(`/v1/sounds/${id}/content?candidate=${candidate}&format=${format}`)).blob();

export const remove = (id) => ask(`/v1/sounds/${id}`, { method: "DELETE", keepalive: true });

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
