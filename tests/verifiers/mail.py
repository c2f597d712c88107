"""A mail server for tests/it/notices.rs: says "ready", then a JSON line for each mail that it takes.

Takes mails on 127.0.0.1 at the port that is given; with a certificate and a key, behind STARTTLS and a login alone. Addresses
that begin with "gone" are refused.
"""

import json
import ssl
import sys
import threading

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult


class Mailbox:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("gone"):
            return f"550 5.1.1 <{address}> is unknown"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        mail = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "text": envelope.content.decode("ascii"),
            "tls": session.ssl is not None,
            "login": session.authenticated,
        }
        print(json.dumps(mail), flush=True)
        return "250 OK"


def login(server, session, envelope, mechanism, data):
    return AuthResult(success=data.login == b"tidings@example.org" and data.password == b"p:w/@")


more = {}
if len(sys.argv) > 2:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    more = {"tls_context": context, "require_starttls": True, "authenticator": login, "auth_required": True}
Controller(Mailbox(), hostname="127.0.0.1", port=int(sys.argv[1]), **more).start()
print("ready", flush=True)
threading.Event().wait()
