"""The page at `/` of a server: users drop an image on it and see the detections. It uses the public REST API."""

from unfreeze.web.routes import routes

__all__ = ["routes"]
