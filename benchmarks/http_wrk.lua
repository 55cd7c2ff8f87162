-- What wrk asks: `wrk -s http_wrk.lua URL -- WHAT NODES NAMES [FILE]`. Nodes 0 to NODES-1 are spread over NAMES names.
-- Where a FILE is given, WHAT is a path, to which the lines of the file are posted.
-- Requests are made beforehand, where they repeat: wrk is to take as little of the machine as possible.

local PREPARED = 20000
local JSON = {["Content-Type"] = "application/json"}
local what, nodes, names

local function id(number) return string.format("node-%06d", number) end
local function name(number) return string.format("name-%05d", number % names) end
local function path(number) return "/v1/services/" .. name(number) .. "/nodes/" .. id(number) end

local function put(number, port, ttl)
  local body = string.format(
    '{"name":"%s","version":"1.0","metadata":{"team":"core"},"endpoints":[],"nodes":[{"id":"%s",'
      .. '"address":"10.%d.%d.%d:%d","metadata":{"zone":"zone-%d","rack":"rack-%d","build":"build-%d"}}]}',
    name(number), id(number), math.floor(number / 65536) % 256, math.floor(number / 256) % 256, number % 256,
    port, number % 3, number % 40, number % 100)
  return wrk.format("PUT", path(number) .. "?ttl=" .. ttl, JSON, body)
end

local function post(at, ...) return wrk.format("POST", at, JSON, string.format(...)) end

-- of a node, or of the turn

local ask = {}

function ask.lookup(number) return wrk.format("GET", "/v1/services/" .. name(number)) end

function ask.heartbeat(number) return put(number, 80, "10m") end

function ask.srsr_lookup(number) return post("/lookup", '{"name":"%s"}', name(number)) end

function ask.srsr_register(number)
  return post("/register", '{"name":"srsr-%03d","address":"http://10.0.0.%d","port":"80"}', number % 1000, number % 256)
end

function ask.register(turn) return put(turn % 50000, 1024 + math.floor(turn / 50000) % 60000, "10m") end

function ask.mixed(turn)
  local part, number = turn % 20, math.floor(turn / 20)
  if part < 8 then return ask.heartbeat(turn % nodes) end
  if part < 14 then return ask.lookup(turn % nodes) end
  if part == 14 then return ask.srsr_register(number) end -- expires
  if part == 15 then return put(number % nodes, 1024 + number % 60000, "10m") end -- changes
  if part == 16 then return put(1000000 + number, 80, "30s") end -- comes, and
  if part == 17 then return wrk.format("DELETE", path(1000000 + number)) end -- leaves
  if part == 18 then return put(5000000 + number, 80, "2s") end -- expires
  return ask.srsr_lookup(turn % nodes)
end

local requests, turn = {}, 0
local made = {register = true, mixed = true}

function init(args)
  what, nodes, names = args[1], tonumber(args[2]), tonumber(args[3])
  if args[4] then -- a file of bodies, one a line
    for body in io.lines(args[4]) do requests[#requests + 1] = post(what, "%s", body) end
  elseif not made[what] then
    local count = math.min(nodes, PREPARED)
    for number = 1, count do requests[number] = ask[what](number * math.floor(nodes / count) % nodes) end
  end
end

function request()
  turn = turn + 1
  return made[what] and ask[what](turn) or requests[turn % #requests + 1]
end
