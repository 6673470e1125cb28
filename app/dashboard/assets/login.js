// A link to /login#KEY signs in by itself. The browser sends the part behind # only in this form.

const key = decodeURIComponent(location.hash.slice(1));
if (key) {
  history.replaceState(null, "", location.pathname);
  const form = document.querySelector("form.login");
  form.elements.key.value = key;
  form.submit();
}
