// The form #upload sends its file with a bar that shows how much of it has gone, then the answer.
const form = document.querySelector("#upload");
const bar = form.querySelector("progress");
const answer = form.querySelector("output");

form.onsubmit = (event) => {
  event.preventDefault();
  const request = new XMLHttpRequest(); // fetch() does not say how much has been sent
  request.upload.onprogress = ({ loaded, total }) => { bar.value = loaded / total; };
  request.onload = () => { answer.value = request.responseText; };
  request.onerror = () => { answer.value = "The connection broke."; };
  bar.hidden = false;
  bar.value = 0;
  answer.value = "";
  request.open("POST", form.action);
  request.send(new FormData(form));
};
