"""Security headers: the Content Security Policy and the other headers that every response carries."""

from __future__ import annotations

from sanic.response import BaseHTTPResponse

from llb.api.responses import PassthroughResponse

# Only the page's own files, and same-origin requests and WebSockets. Markup becomes DOM only through the two
# named Trusted Types policies.
_CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "font-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "object-src 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types llb dompurify",
    )
)
_DISABLED_FEATURES = (
    "camera",
    "display-capture",
    "geolocation",
    "hid",
    "microphone",
    "midi",
    "payment",
    "serial",
    "usb",
)
_HEADERS = {
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": ", ".join(f"{feature}=()" for feature in _DISABLED_FEATURES),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
# The headers that browsers apply to scripts and style sheets. The page has sixty of those, and all headers
# would be a quarter of its first load.
_SUBRESOURCE_HEADERS = {
    name: _HEADERS[name]
    for name in ("Cross-Origin-Resource-Policy", "X-Content-Type-Options", "Cache-Control")
}
_SUBRESOURCE_TYPES = ("text/javascript", "text/css")
_ENCODED_HEADERS = tuple(PassthroughResponse.encode_header(name, value) for name, value in _HEADERS.items())
_ENCODED_LINES = b"".join(b"%b: %b\r\n" % header for header in _ENCODED_HEADERS)


def add_security_headers(response: BaseHTTPResponse, request_id: str) -> None:
    """Add `X-Request-ID` and the security headers; a header that the handler has set stays."""
    if isinstance(response, PassthroughResponse):
        encoded_id = request_id.encode("ascii")
        response.fixed_headers = (*_ENCODED_HEADERS, (b"x-request-id", encoded_id))
        response.fixed_lines = b"%bx-request-id: %b\r\n" % (_ENCODED_LINES, encoded_id)
        return
    response.headers["X-Request-ID"] = request_id
    is_subresource = (response.content_type or "").startswith(_SUBRESOURCE_TYPES)
    for name, value in (_SUBRESOURCE_HEADERS if is_subresource else _HEADERS).items():
        response.headers.setdefault(name, value)
