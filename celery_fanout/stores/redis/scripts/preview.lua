-- What would happen to a run with this flow now; nothing is changed.
-- args: flow_json
--   flow_json: see _flow_values in packing.py
-- Returns {verdict, gate, at_most, used, waiting, when it could start or false}
local F, m = flow(), cjson.decode(flow_json)
local r = {id = ''}
for i = 1, #m.f, 2 do r[m.f[i]] = m.f[i + 1] end
m.run = r
local names = {}
for _, g in ipairs(m.g) do names[g[1]] = g[2] end
for _, g in ipairs(F.limits_of(r)) do g.name = names[g.id] end

local function answer(verdict, g, at)
  return {verdict, g.id, g.most, g.used or 0, g.waiting or 0, at and f(at) or false}
end

local g = F.dropped_by(m)
if g then
  if g.per then -- a rate limit
    g.used = 0
    for _, at in ipairs(call('LRANGE', K .. ':lx:' .. g.id, 0, -1)) do
      if tonumber(at) > now - g.span + 0.000001 then g.used = g.used + 1 end
    end
  end
  return answer('drop', g, g.free_at)
end
if m.c then
  local gate, _, period, _, size = unpack(m.c)
  local id = call('GET', K .. ':lc:' .. gate)
  if not id then return answer('collect', {id = gate, most = size}, now + period) end
  return answer('join', {id = gate, most = size, used = call('LLEN', lekey(id))}, call('ZSCORE', K .. ':due', id))
end
for _, each in ipairs(F.limits_of(r)) do
  if each.full == 'c' and F.look(each).used >= each.most then return answer('cancel', each) end
end
local refused = F.refused(r)
if not refused then return {'start', '', 0, 0, 0, false} end
if not refused.per then return answer('wait', refused) end
refused.used = refused.step and math.max(0, math.ceil((refused.tat - now - 0.000001) / refused.step)) or 0
return answer('wait', refused, refused.step and math.max(refused.next, now) + refused.waiting * refused.step)
