const crypto = require('crypto');
function verifyWebhook(req, secret) {
const signature = req.headers['x-webhook-signature'];
const timestamp = req.headers['x-webhook-timestamp'];
const body = JSON.stringify(req.body);
// Create expected signature
const expectedSignature = crypto
.createHmac('sha256', secret)
.update(body)
.digest('hex');
// Compare signatures
return signature === `sha256=${expectedSignature}`;
}
