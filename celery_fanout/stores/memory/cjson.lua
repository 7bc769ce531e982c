-- What scripts use of the cjson in Redis. ... is its decode(), which is Python's, and its null.
local decode, null = ...

local ESCAPES = {['"'] = '\\"', ['\\'] = '\\\\', ['/'] = '\\/', ['\b'] = '\\b', ['\f'] = '\\f', ['\n'] = '\\n',
  ['\r'] = '\\r', ['\t'] = '\\t'}

local function escape(character) return ESCAPES[character] or string.format('\\u%04x', string.byte(character)) end

local function quoted(text) return '"' .. string.gsub(text, '[%c"\\/\127]', escape) .. '"' end

local function encode(value)
  local kind, parts = type(value), {}
  if kind == 'string' then return quoted(value) end
  if kind == 'number' then return string.format('%.14g', value) end
  if kind ~= 'table' then return value == null and 'null' or tostring(value) end
  if #value > 0 then
    for index, item in ipairs(value) do parts[index] = encode(item) end
    return '[' .. table.concat(parts, ',') .. ']'
  end
  for name, item in pairs(value) do parts[#parts + 1] = quoted(name) .. ':' .. encode(item) end
  return '{' .. table.concat(parts, ',') .. '}'
end

return {decode = decode, encode = encode, null = null}
