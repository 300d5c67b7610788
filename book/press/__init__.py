"""The press: notebook -> executed notebook -> page. It is no part of `nbutils`, and it needs no torch, but to check a
folder of images, an unusual radius or a GPU that somebody asks for."""
