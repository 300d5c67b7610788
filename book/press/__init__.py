"""The press: notebook -> executed notebook -> page. It is no part of `nbutils`, and it needs no torch."""
