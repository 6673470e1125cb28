// A link to /login#KEY signs in by itself: the part behind # never leaves the browser but in this form.

const key = decodeURIComponent(location.hash.slice(1));
if (key) {
  history.replaceState(null, "", location.pathname);
  const form = document.querySelector("form.login");
  form.elements.key.value = key;
  form.submit();
}
