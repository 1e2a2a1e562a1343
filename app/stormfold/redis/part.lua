-- A part: members of a bucket in a string. Part of fold.lua, before bucket.lua. Making strings is what costs most in Lua,
-- so a known member needs none here.
--
-- Once read, a part is a table: `count` members, of which `value`, the string in Redis, has `known`; their `fingerprints`;
-- `wide`, the form of all; the `numbers` of the known members, once one has changed. Only a part that must be written as a
-- whole has the `ends` of the known texts, and of added members `more_numbers` and `more_ends`; and lists of strings:
-- `more` fingerprints and `texts`, of which the first are those of the known members.
local CHUNK = 400
-- Locals, because every member needs these functions.
local struct_pack, struct_unpack, find = struct.pack, struct.unpack, string.find
local byte, char, sub = string.byte, string.char, string.sub

-- The first of two byte strings, independent of the server's locale.
local function lower(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = byte(a, i), byte(b, i)
    if x ~= y then
      return x < y and a or b
    end
  end
  return #a < #b and a or b
end

-- Format of this many times the same numbers.
local formats = {[NARROW] = {}, [WIDE] = {}, [NARROW_END] = {}, [WIDE_END] = {}}
local function format_of(numbers, times)
  local known = formats[numbers]
  local format = known[times]
  if not format then
    format = string.rep(numbers, times)
    known[times] = format
  end
  return format
end

-- Numbers at a place in a string, and the place after them. `each` is how many numbers the format has.
local function unpack_numbers(format, each, times, value, at)
  local numbers = {}
  for from = 0, times - 1, CHUNK do
    local count = math.min(CHUNK, times - from)
    local some = {struct_unpack(format_of(format, count), value, at)}
    at = some[count * each + 1]
    if times <= CHUNK then
      some[count * each + 1] = nil
      return some, at
    end
    for i = 1, count * each do
      numbers[from * each + i] = some[i]
    end
  end
  return numbers, at
end

local function pack_numbers(format, each, times, numbers)
  if times <= CHUNK then
    return struct_pack(format_of(format, times), unpack(numbers, 1, times * each))
  end
  local packed = {}
  for from = 0, times - 1, CHUNK do
    local to = math.min(from + CHUNK, times)
    packed[#packed + 1] = struct_pack(format_of(format, to - from), unpack(numbers, from * each + 1, to * each))
  end
  return table.concat(packed)
end

-- Reads the part at a place of a string.
local function read_part(value, place)
  local count, wide, at = struct_unpack(PART, value, place)
  local part = {count = count, known = count, wide = wide, value = value, numbers_at = at}
  part.end_bytes = wide == 0 and NARROW_END_BYTES or WIDE_END_BYTES
  at = at + count * (wide == 0 and NARROW_BYTES or WIDE_BYTES)
  part.ends_at = at + count * FINGERPRINT_BYTES
  part.texts_at = part.ends_at + (count + 1) * part.end_bytes
  part.fingerprints = sub(value, at, part.ends_at - 1)
  return part
end

-- The numbers of the known members.
local function get_numbers(part)
  local numbers = part.numbers
  if not numbers then
    local format, each = NARROW, 1
    if part.wide ~= 0 then
      format, each = WIDE, 2
    end
    numbers = unpack_numbers(format, each, part.known, part.value, part.numbers_at)
    part.numbers = numbers
  end
  return numbers
end

-- Makes what a part needs to be written as a whole.
local function begin_whole(part)
  if not part.ends then
    part.ends = sub(part.value, part.ends_at, part.texts_at - 1)
    part.last_end = struct_unpack(part.wide == 0 and NARROW_END or WIDE_END, part.value, part.texts_at - part.end_bytes)
    part.texts = {sub(part.value, part.texts_at, part.texts_at + part.last_end - 1)}
    part.more, part.more_numbers, part.more_ends = {part.fingerprints}, {}, {}
  end
end

local function new_part()
  local part = read_part(struct_pack(PART, 0, 0) .. struct_pack(NARROW_END, 0), 1)
  begin_whole(part)
  return part
end

local function widen(part)
  begin_whole(part)
  local numbers = {}
  for i, number in ipairs(get_numbers(part)) do
    local time = number % NARROW_VALUES
    numbers[i * 2 - 1], numbers[i * 2] = (number - time) / NARROW_VALUES, time
  end
  local ends = unpack_numbers(NARROW_END, 1, part.known + 1, part.ends, 1)
  part.wide, part.numbers, part.ends = 1, numbers, pack_numbers(WIDE_END, 1, part.known + 1, ends)
end

-- The count of a known member, which is alerts * FLAG_VALUES + flags, and the time of its newest alert.
local function read_member(part, i)
  local numbers = part.numbers or get_numbers(part)
  if part.wide ~= 0 then
    return numbers[i * 2 - 1], numbers[i * 2]
  end
  local number = numbers[i]
  local time = number % NARROW_VALUES
  return (number - time) / NARROW_VALUES, time
end

-- One of some fingerprints.
local function get_fingerprint(fingerprints, i)
  return sub(fingerprints, (i - 1) * FINGERPRINT_BYTES + 1, i * FINGERPRINT_BYTES)
end

-- Merges alerts into a known member.
local function merge_member(part, i, count, time)
  local old_count, old_time = read_member(part, i)
  local flags, old_flags = count % FLAG_VALUES, old_count % FLAG_VALUES
  count = count - flags + old_count - old_flags
  if old_flags ~= flags or old_time > time then
    local qualified = (flags >= QUALIFIED or old_flags >= QUALIFIED) and QUALIFIED or 0
    -- The other flag: whether the newest alert is resolved.
    local resolved, old_resolved = flags % QUALIFIED, old_flags % QUALIFIED
    if old_time > time then
      time, resolved = old_time, old_resolved
    elseif old_time == time and old_resolved > resolved then
      resolved = old_resolved
    end
    flags = qualified + resolved
  end
  count = count + flags
  if part.wide == 0 and (count >= NARROW_VALUES or time >= NARROW_VALUES) then
    widen(part)
  end
  if part.wide == 0 then
    part.numbers[i] = count * NARROW_VALUES + time
  else
    part.numbers[i * 2 - 1], part.numbers[i * 2] = count, time
  end
end

-- Where the text of a known member is in the string of its part, and its length.
local function find_text(part, i)
  local at = part.ends_at + (i - 1) * part.end_bytes
  if part.end_bytes == NARROW_END_BYTES then
    local high, low, to_high, to_low = byte(part.value, at, at + 3)
    local from = high * 256 + low
    return part.texts_at + from, to_high * 256 + to_low - from
  end
  local from, to = struct_unpack(format_of(WIDE_END, 2), part.value, at)
  return part.texts_at + from, to - from
end

local function add_member(part, fingerprint, count, time, text)
  begin_whole(part)
  if part.wide == 0 and (count >= NARROW_VALUES or time >= NARROW_VALUES) then
    widen(part)
  end
  local numbers, ends = part.more_numbers, part.more_ends
  part.count, part.last_end = part.count + 1, part.last_end + #text
  numbers[#numbers + 1] = count
  numbers[#numbers + 1] = time
  ends[#ends + 1] = part.last_end
  part.more[#part.more + 1], part.texts[#part.texts + 1] = fingerprint, text
end

-- Replaces the text of a known member, before any are added.
local function replace_text(part, i, text)
  begin_whole(part)
  local format, texts = part.wide == 0 and NARROW_END or WIDE_END, part.texts[1]
  local ends = unpack_numbers(format, 1, part.known + 1, part.ends, 1)
  local change = #text - (ends[i + 1] - ends[i])
  part.texts[1] = sub(texts, 1, ends[i]) .. text .. sub(texts, ends[i + 1] + 1)
  for after = i + 1, #ends do
    ends[after] = ends[after] + change
  end
  part.last_end = part.last_end + change
  if part.wide == 0 and part.last_end >= NARROW_VALUES then
    widen(part)
    format = WIDE_END
  end
  part.ends = pack_numbers(format, 1, part.known + 1, ends)
end

-- What of a part changes with every alert; it is the beginning of its string.
local function pack_head(part)
  local head, format, each, more = struct_pack(PART, part.count, part.wide), NARROW, 1, part.more_numbers
  if part.wide ~= 0 then
    format, each = WIDE, 2
  end
  if part.numbers then
    head = head .. pack_numbers(format, each, part.known, part.numbers)
  else
    head = head .. sub(part.value, part.numbers_at, part.ends_at - part.known * FINGERPRINT_BYTES - 1)
  end
  local added = part.count - part.known
  if added > 0 and part.wide == 0 then
    more = {}
    for i = 1, added do
      more[i] = part.more_numbers[i * 2 - 1] * NARROW_VALUES + part.more_numbers[i * 2]
    end
  end
  return added > 0 and head .. pack_numbers(format, each, added, more) or head
end

local function pack_whole(part)
  begin_whole(part)
  if part.wide == 0 and part.last_end >= NARROW_VALUES then
    widen(part)
  end
  local ends = pack_numbers(part.wide == 0 and NARROW_END or WIDE_END, 1, #part.more_ends, part.more_ends)
  return pack_head(part) .. table.concat(part.more) .. part.ends .. ends .. table.concat(part.texts)
end
