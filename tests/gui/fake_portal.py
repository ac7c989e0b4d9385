"""A desktop's ScreenCast portal that shows one PipeWire node, or refuses: run by a Python that has dbus and gi.

Arguments: the node; the answer to Start (0: yes, 1: the person said no); after how many ms it ends the session, or 0.
"""

import os
import socket
import sys

import dbus
import dbus.service
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib

SCREEN_CAST = "org.freedesktop.portal.ScreenCast"
ROOT = "/org/freedesktop/portal/desktop"
node, answer, ends_after_ms = (int(word) for word in sys.argv[1:])
DBusGMainLoop(set_as_default=True)
bus = dbus.SessionBus()


class Request(dbus.service.Object):
    @dbus.service.signal("org.freedesktop.portal.Request", signature="ua{sv}")
    def Response(self, response, results):
        pass


class Session(dbus.service.Object):
    @dbus.service.method("org.freedesktop.portal.Session")
    def Close(self):
        print("session closed", flush=True)

    @dbus.service.signal("org.freedesktop.portal.Session", signature="a{sv}")
    def Closed(self, details):
        pass


class Portal(dbus.service.Object):
    def __init__(self):
        super().__init__(bus, ROOT)
        self.session = None
        self.requests = 0

    def respond(self, sender, response, results):
        self.requests += 1
        path = f"{ROOT}/request/{sender[1:].replace('.', '_')}/t{self.requests}"
        request = Request(bus, path)

        def say():
            request.Response(response, dbus.Dictionary(results, signature="sv"))
            request.remove_from_connection()
            return False

        GLib.timeout_add(50, say)
        return dbus.ObjectPath(path)

    @dbus.service.method(SCREEN_CAST, "a{sv}", "o", sender_keyword="sender")
    def CreateSession(self, options, sender=None):
        path = f"{ROOT}/session/{sender[1:].replace('.', '_')}/{options['session_handle_token']}"
        self.session = Session(bus, path)
        return self.respond(sender, 0, {"session_handle": dbus.String(path)})

    @dbus.service.method(SCREEN_CAST, "oa{sv}", "o", sender_keyword="sender")
    def SelectSources(self, session, options, sender=None):
        return self.respond(sender, 0, {})

    @dbus.service.method(SCREEN_CAST, "osa{sv}", "o", sender_keyword="sender")
    def Start(self, session, parent, options, sender=None):
        print("asked", flush=True)
        stream = dbus.Struct((dbus.UInt32(node), dbus.Dictionary({}, signature="sv")))
        return self.respond(sender, answer, {"streams": dbus.Array([stream], signature="(ua{sv})")})

    @dbus.service.method(SCREEN_CAST, "oa{sv}", "h")
    def OpenPipeWireRemote(self, session, options):
        if ends_after_ms:
            GLib.timeout_add(ends_after_ms, lambda: self.session.Closed(dbus.Dictionary({}, signature="sv")))
        remote = socket.socket(socket.AF_UNIX)
        remote.connect(os.environ["XDG_RUNTIME_DIR"] + "/pipewire-0")
        return dbus.types.UnixFd(remote)

    @dbus.service.method("org.freedesktop.DBus.Properties", "ss", "v")
    def Get(self, interface, name):
        return dbus.UInt32({"version": 4}.get(name, 7))


portal = Portal()
name = dbus.service.BusName("org.freedesktop.portal.Desktop", bus)
print("ready", flush=True)
GLib.MainLoop().run()
