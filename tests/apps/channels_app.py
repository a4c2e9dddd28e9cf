"""Django with Channels in one module: consumers of every kind, and a channel layer in memory."""

from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    DEBUG=False,
    INSTALLED_APPS=["channels"],
    LOGGING_CONFIG=None,
    ROOT_URLCONF=__name__,
    SECRET_KEY="for tests",
)

from django.core.asgi import get_asgi_application  # noqa: E402 # the settings come first

# Sets Django up, which has to be before anything else of it is imported.
django_app = get_asgi_application()

from channels.generic.websocket import (  # noqa: E402 # Django has to be set up before
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    WebsocketConsumer,
)
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402 # Django has to be set up before
from channels.security.websocket import OriginValidator  # noqa: E402 # Django has to be set up before
from django.http import JsonResponse  # noqa: E402 # Django has to be set up before
from django.urls import path  # noqa: E402 # Django has to be set up before
from events import note  # noqa: E402 # Django has to be set up before


class Echo(AsyncWebsocketConsumer):
    async def connect(self):
        offered = self.scope["subprotocols"]
        await self.accept(subprotocol="chat.v2" if "chat.v2" in offered else None)

    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=text_data, bytes_data=bytes_data)

    async def disconnect(self, code):
        note("echo", code)


class SyncEcho(WebsocketConsumer):
    """In a thread."""

    def receive(self, text_data=None, bytes_data=None):
        self.send(text_data=text_data, bytes_data=bytes_data)

    def disconnect(self, code):
        note("sync", code)


class Chat(AsyncJsonWebsocketConsumer):
    """A room that others hear what is said in."""

    async def connect(self):
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()
        await self.send_json({"joined": self.room})

    async def receive_json(self, content, **kwargs):
        await self.channel_layer.group_send(
            self.room, {"type": "chat.said", "text": content["say"]}
        )

    async def chat_said(self, event):
        await self.send_json({"said": event["text"]})

    async def disconnect(self, code):
        await self.channel_layer.group_discard(self.room, self.channel_name)
        note("left", self.room, code)


class Close(AsyncWebsocketConsumer):
    async def connect(self):
        await self.accept()
        await self.close(code=4321, reason="enough")

    async def disconnect(self, code):
        note("closed", code)


class Reject(AsyncWebsocketConsumer):
    async def connect(self):
        await self.close()

    async def disconnect(self, code):
        note("rejected", code)


class Broken(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        raise ValueError("the application's own")


async def json(request):
    return JsonResponse({"greeting": "hello"})


urlpatterns = [path("json", json)]
routes = [
    path("ws/echo", Echo.as_asgi()),
    path("ws/sync", SyncEcho.as_asgi()),
    path("ws/chat/<str:room>", Chat.as_asgi()),
    path("ws/close", Close.as_asgi()),
    path("ws/reject", Reject.as_asgi()),
    path("ws/broken", Broken.as_asgi()),
]
app = ProtocolTypeRouter(
    {
        "http": django_app,
        "websocket": OriginValidator(URLRouter(routes), ["http://good.example"]),
    }
)
