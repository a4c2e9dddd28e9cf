"""Django in one module: asynchronous views behind a synchronous middleware."""

import asyncio
import gc

from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    DEBUG=False,
    LOGGING_CONFIG=None,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="for tests",
)

from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import JsonResponse, StreamingHttpResponse  # noqa: E402
from django.urls import path  # noqa: E402
from events import note  # noqa: E402


async def json(request):
    return JsonResponse(
        {"greeting": "hello", "query": request.GET.dict(), "client": request.META["REMOTE_ADDR"]}
    )


async def cookies(request):
    return JsonResponse(request.COOKIES)


async def collect(request):
    return JsonResponse({"collected": gc.collect()})


async def stream(request):
    async def parts():
        for part in range(5):
            yield f"part {part}\n"
            await asyncio.sleep(0)

    return StreamingHttpResponse(parts(), content_type="text/plain")


async def endless(request):
    async def parts():
        note("begun")
        try:
            while True:
                yield "x" * 1000
                await asyncio.sleep(0.01)
        finally:
            note("closed")

    return StreamingHttpResponse(parts())


def upload(request):
    # Synchronous: Django runs it in a thread.
    file = request.FILES["file"]
    content = file.read()
    return JsonResponse(
        {
            "name": file.name,
            "size": len(content),
            "last": content[-1:].decode(),
            "field": request.POST["field"],
        }
    )


async def slow(request):
    note("slow begun")
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        note("slow cancelled")
        raise


def error(request):
    raise ValueError("the application's own")


urlpatterns = [
    path("json", json),
    path("cookies", cookies),
    path("collect", collect),
    path("stream", stream),
    path("endless", endless),
    path("upload", upload),
    path("slow", slow),
    path("error", error),
]
app = get_asgi_application()
