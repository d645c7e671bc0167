"""The library over HTTP: the REST interface, the pages, and what keeps both safe. `app.create_app` is the door."""
