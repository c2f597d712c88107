import crypto from "node:crypto";
function verify(req, secret) {
const sig = req.headers["x-axissynapse-signature"];
const expected = "v1=" + crypto
.createHmac("sha256", secret)
.update(req.rawBody)
.digest("hex");
return crypto.timingSafeEqual(
Buffer.from(sig),
Buffer.from(expected),
);
}
