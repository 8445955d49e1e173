// The form #chat talks over the WebSocket /chat; what the others say, and the echo of our own, comes back.
const form = document.querySelector("#chat");
const state = form.querySelector("output");
const socket = new WebSocket(`${location.origin.replace("http", "ws")}/chat`);

socket.onopen = () => { state.value = "connected"; };
socket.onclose = (event) => { state.value = `closed (${event.code}): reload the page`; };
socket.onmessage = (event) => {
  const line = document.createElement("li");
  line.textContent = event.data;
  document.querySelector("#said").append(line);
  line.scrollIntoView({ block: "nearest" });
};

form.onsubmit = (event) => {
  event.preventDefault();
  socket.send(`${form.elements.name.value}: ${form.elements.line.value}`);
  form.elements.line.value = "";
};
