"""The page at `/` of a server: a person drops a picture and sees what the model finds, by the REST that all use."""

from unfreeze.web.routes import routes

__all__ = ["routes"]
