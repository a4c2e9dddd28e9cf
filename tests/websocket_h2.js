// Several WebSockets, and a request of HTTP, on one connection of Node's http2 module (RFC 8441).
// node websocket_h2.js URL PATH COUNT SIZE HTTP_PATH [wait]
// Each sends a message of SIZE bytes (0: none), reads as much, and closes with 4001; with "wait" the server closes.
'use strict'
const http2 = require('http2')

const [url, path, count, size, httpPath, wait] = process.argv.slice(2)
const told = { sockets: [] }

function frame (opcode, payload) {
  const length = payload.length
  const extended = length < 126 ? 0 : length < 65536 ? 2 : 8
  const head = Buffer.alloc(2 + extended + 4) // the mask 0
  head[0] = 0x80 | opcode
  head[1] = 0x80 | (extended === 0 ? length : extended === 2 ? 126 : 127)
  if (extended === 2) head.writeUInt16BE(length, 2)
  if (extended === 8) head.writeBigUInt64BE(BigInt(length), 2)
  return Buffer.concat([head, payload])
}

// The server's first whole frame in `data`, and what is behind it.
function take (data) {
  if (data.length < 2) return null
  let length = data[1] & 127
  let start = 2
  if (length === 126) {
    if (data.length < 4) return null
    length = data.readUInt16BE(2)
    start = 4
  } else if (length === 127) {
    if (data.length < 10) return null
    length = Number(data.readBigUInt64BE(2))
    start = 10
  }
  if (data.length < start + length) return null
  return { opcode: data[0] & 15, payload: data.subarray(start, start + length), rest: data.subarray(start + length) }
}

function open (client) {
  return new Promise((resolve, reject) => {
    const one = { status: 0, bytes: 0, code: 0, rst: -1, ended: false }
    told.sockets.push(one)
    const stream = client.request({
      ':method': 'CONNECT', ':protocol': 'websocket', ':path': path, 'sec-websocket-version': '13'
    }, { endStream: false })
    let chunks = []
    stream.on('error', reject)
    stream.on('response', (headers) => {
      one.status = headers[':status']
      if (Number(size)) stream.write(frame(2, Buffer.alloc(Number(size), 'x')))
      opened()
    })
    stream.on('data', (chunk) => {
      chunks.push(chunk)
      if (Number(size) && chunks.reduce((sum, part) => sum + part.length, 0) < Number(size) && !one.bytes) return
      let data = Buffer.concat(chunks)
      let found
      while ((found = take(data)) !== null) {
        data = found.rest
        if (found.opcode === 8) {
          one.code = found.payload.readUInt16BE(0)
          if (wait) stream.write(frame(8, found.payload.subarray(0, 2)))
        } else if (found.opcode < 3) {
          one.bytes += found.payload.length
          stream.write(frame(8, Buffer.from([0x0f, 0xa1])))
        }
      }
      chunks = [data]
    })
    stream.on('end', () => { one.ended = true; stream.end() })
    stream.on('close', () => { one.rst = stream.rstCode; resolve() })
  })
}

let left = Number(count)
function opened () {
  if (--left === 0 && wait) process.stdout.write('open\n')
}

function get (client) {
  return new Promise((resolve, reject) => {
    const stream = client.request({ ':path': httpPath })
    stream.on('response', (headers) => { told.http = headers[':status'] })
    stream.on('error', reject)
    stream.on('end', resolve)
    stream.resume()
  })
}

const client = http2.connect(url, { rejectUnauthorized: false })
client.on('error', (error) => { console.error(error); process.exit(1) })
client.once('remoteSettings', async (settings) => {
  told.enableConnectProtocol = settings.enableConnectProtocol
  try {
    await Promise.all([get(client), ...Array.from({ length: Number(count) }, () => open(client))])
  } catch (error) {
    console.error(error)
    process.exit(1)
  }
  client.close()
  console.log(JSON.stringify(told))
})
