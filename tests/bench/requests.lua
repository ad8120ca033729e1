-- For wrk: hosts that take a pool and give it back, one after another.
local count = 0

request = function()
    count = count + 1
    local host = math.floor(count / 2) % 50
    local call = count % 2 == 0 and "get" or "release"
    return wrk.format("GET", "/" .. call .. "/?pool=speed&host=host" .. host)
end
