"""A real RTSP server, GStreamer's, which Debian's Python has.

/usr/bin/python3 rtsp_server.py FILE PORT [USER PASSWORD]: an MP4 file's H.264 is at rtsp://127.0.0.1:PORT/stream, from
its start for each who comes.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402


def main(path: str, port: str, *credentials: str) -> None:
    Gst.init(None)
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f"( filesrc location={path} ! qtdemux ! rtph264pay name=pay0 pt=96 )")
    if credentials:
        auth, token = GstRtspServer.RTSPAuth(), GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(*credentials), token)
        server.set_auth(auth)
        roles = GstRtspServer.RTSPPermissions()
        roles.add_permission_for_role("viewer", "media.factory.access", True)
        roles.add_permission_for_role("viewer", "media.factory.construct", True)
        factory.set_permissions(roles)
    server.get_mount_points().add_factory("/stream", factory)
    server.attach(None)
    print("ready", flush=True)
    GLib.MainLoop().run()


main(*sys.argv[1:])
