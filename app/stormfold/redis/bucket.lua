-- A bucket: its summary, and its members in one or more hashes. Part of fold.lua, which has the arguments.

-- Locals, because every member needs these functions.
local struct_pack, struct_unpack, find = struct.pack, struct.unpack, string.find
local byte, char, sub = string.byte, string.char, string.sub

local function unpack_summary(value)
  local alerts, first, last, late, rank, truncated, members, bits, prefixes, at = struct_unpack(SUMMARY, value)
  local severity, unqualified = sub(value, at), 0
  local name_end = find(severity, UNQUALIFIED_SEPARATOR, 1, true)
  if name_end then
    unqualified = tonumber(sub(severity, name_end + 1)) or 0
    severity = sub(severity, 1, name_end - 1)
  end
  return {
    alerts = alerts, first = first, last = last, late = late, rank = rank, severity = severity,
    truncated = truncated, members = members, bits = bits, prefixes = prefixes, unqualified = unqualified,
  }
end

local function pack_summary(summary)
  local packed = struct_pack(SUMMARY, summary.alerts, summary.first, summary.last, summary.late, summary.rank,
    summary.truncated, summary.members, summary.bits, summary.prefixes) .. summary.severity
  if summary.unqualified > 0 then
    packed = packed .. UNQUALIFIED_SEPARATOR .. string.format('%d', summary.unqualified)
  end
  return packed
end

-- Merges the summary of a row into the one that Redis had.
local function merge_summaries(summary, row)
  local rank, severity = row[ROW_RANK], row[ROW_SEVERITY]
  if rank < summary.rank or (rank == summary.rank and severity ~= summary.severity) then
    summary.severity = rank < summary.rank and severity or lower(severity, summary.severity)
    summary.rank = rank
  end
  summary.alerts, summary.late = summary.alerts + row[ROW_ALERTS], summary.late + row[ROW_LATE]
  if row[ROW_FIRST] < summary.first then
    summary.first = row[ROW_FIRST]
  end
  if row[ROW_LAST] > summary.last then
    summary.last = row[ROW_LAST]
  end
end

-- Key of a part of a bucket.
local function part_key(key, part)
  return part == 0 and key or key .. SEPARATOR .. part
end

-- Key of the hash with a bucket's prefixes.
local function prefixes_key(key, bits)
  return bits == 0 and key or part_key(key, PREFIXES_PART)
end

-- Binary logarithm of the number of parts of a bucket with this many members and prefixes.
local function bits_of(members, prefixes)
  if members + prefixes <= WHOLE_FIELDS then
    return 0
  end
  local bits = 1
  while members > PART_MEMBERS * 2 ^ bits do
    bits = bits + 1
  end
  return bits
end

local function part_of(fingerprint, parts)
  local high, low = byte(fingerprint, FINGERPRINT_BYTES - 1, FINGERPRINT_BYTES)
  return (high * 256 + low) % parts
end

-- Indexes of a row's members by the part that has them; false stands for all.
local ALL = {[0] = false}
local function by_part(fingerprints, bits)
  if bits == 0 then
    return ALL
  end
  local lists, parts = {[0] = {}}, 2 ^ bits
  for i = 1, #fingerprints do
    local part = part_of(fingerprints[i], parts)
    local list = lists[part]
    if not list then
      list = {}
      lists[part] = list
    end
    list[#list + 1] = i
  end
  return lists
end

-- Fails on a part of the wrong type that a row may read or write.
local function check_parts(key, fingerprints, bits, members_after, prefixes_after)
  local bits_after = bits_of(members_after, prefixes_after)
  if bits_after > bits then
    for part = 1, 2 ^ bits_after - 1 do
      redis.call('HLEN', part_key(key, part))
    end
  elseif bits > 0 then
    for part in pairs(by_part(fingerprints, bits)) do
      redis.call('HLEN', part_key(key, part))
    end
  end
  bits = math.max(bits, bits_after)
  if bits > 0 then
    redis.call('HLEN', prefixes_key(key, bits))
  end
end

-- Moves members, and the prefixes of a bucket with one part, to where a bucket with more parts has them.
local function split(key, bits, new_bits)
  local parts = 2 ^ new_bits
  for part = 0, 2 ^ bits - 1 do
    local from = part_key(key, part)
    local fields, moved, gone = redis.call('HGETALL', from), {}, {}
    for i = 1, #fields, 2 do
      local to = part
      if #fields[i] == FINGERPRINT_BYTES then
        to = part_of(fields[i], parts)
      elseif #fields[i] == PREFIX_HASH_BYTES then
        to = PREFIXES_PART
      end
      if to ~= part then
        local flat = moved[to] or {}
        moved[to] = flat
        flat[#flat + 1] = fields[i]
        flat[#flat + 1] = fields[i + 1]
        gone[#gone + 1] = fields[i]
      end
    end
    for to, flat in pairs(moved) do
      set_all(part_key(key, to), flat)
    end
    delete_all(from, gone)
  end
end

-- What Redis has of a row's members: index to value, or false.
local function find_members(key, fingerprints, lists)
  if lists[0] == false then
    return get_all(key, fingerprints)
  end
  local known = {}
  for part, list in pairs(lists) do
    local wanted = {}
    for at = 1, #list do
      wanted[at] = fingerprints[list[at]]
    end
    for at, value in ipairs(get_all(part_key(key, part), wanted)) do
      known[list[at]] = value
    end
  end
  return known
end

-- Which of a row's prefixes the bucket has from now on, index in `prefixes` to true, and fields for the new ones. It gets
-- those that new members need, while it has few.
local function add_prefixes(key, prefixes, needed, bucket)
  local hashes, indexes = {}, {}
  for index, prefix in ipairs(prefixes) do
    if needed[index] then
      hashes[#hashes + 1] = sub(prefix, 1, PREFIX_HASH_BYTES)
      indexes[#indexes + 1] = index
    end
  end
  local named, added, flat = {}, {}, {}
  for at, known in ipairs(get_all(prefixes_key(key, bucket.bits), hashes)) do
    local hash, index = hashes[at], indexes[at]
    local text = sub(prefixes[index], PREFIX_HASH_BYTES + 1)
    known = known or added[hash]
    if not known and bucket.prefixes < MAX_PREFIXES then
      flat[#flat + 1] = hash
      flat[#flat + 1] = text
      bucket.prefixes, added[hash], known = bucket.prefixes + 1, text, text
    end
    named[index] = known == text
  end
  return named, flat
end

-- Decides which of a row's unknown members become members; returns the numbers of their prefixes as keys, or nil if
-- there are none. The others are only counted, and `known` has no entry for them any more.
local function add_members(row, known, bucket)
  local needed = nil
  for i = 1, #row[ROW_FINGERPRINTS] do
    if not known[i] then
      if track_new and bucket.members < max_fingerprints then
        bucket.members = bucket.members + 1
        needed = needed or {}
        needed[row[ROW_PREFIX_NUMBERS][i]] = true
      else
        local flags = row[ROW_COUNTS][i] % FLAG_VALUES
        bucket.truncated = 1
        if flags < QUALIFIED then
          bucket.unqualified = bucket.unqualified + (row[ROW_COUNTS][i] - flags) / FLAG_VALUES
        end
        known[i] = nil
      end
    end
  end
  return needed
end

-- The resource of a prefix and a rest, both without the hash.
local function join(prefix, rest)
  local kind, namespace = byte(prefix) - TEXT_HEAD + 1, byte(rest) - TEXT_HEAD + 1
  return char(RESOURCE_HEAD) .. sub(prefix, 1, kind) .. sub(rest, 1, namespace) .. sub(prefix, kind + 1)
    .. sub(rest, namespace + 1)
end

-- The lower of a member's resource in Redis and the one of the row, and whether it begins with the hash of a prefix.
local function lower_resource(prefixes_at, resource, prefixed, prefix, rest)
  local text, old_text = rest, resource
  if prefix then
    text = join(sub(prefix, PREFIX_HASH_BYTES + 1), sub(rest, PREFIX_HASH_BYTES + 1))
  end
  if prefixed then
    local known = redis.call('HGET', prefixes_at, sub(resource, 1, PREFIX_HASH_BYTES))
    if not known then
      return resource, prefixed
    end
    old_text = join(known, sub(resource, PREFIX_HASH_BYTES + 1))
  end
  if lower(text, old_text) == old_text then
    return resource, prefixed
  end
  return text, false
end

-- Folds a row's members, and writes them with the summary of the bucket, of which the script changes a part.
local function fold_members(key, row, bucket)
  local fingerprints, counts, times = row[ROW_FINGERPRINTS], row[ROW_COUNTS], row[ROW_TIMES]
  local numbers, rests, prefixes = row[ROW_PREFIX_NUMBERS], row[ROW_RESTS], row[ROW_PREFIXES]
  local lists, named, new_prefixes = by_part(fingerprints, bucket.bits), nil, nil
  local known = find_members(key, fingerprints, lists)
  local needed = add_members(row, known, bucket)
  if needed then
    named, new_prefixes = add_prefixes(key, prefixes, needed, bucket)
    local bits = bits_of(bucket.members, bucket.prefixes)
    if bits > bucket.bits then
      split(key, bucket.bits, bits)
      bucket.bits, lists = bits, by_part(fingerprints, bits)
    end
    set_all(prefixes_key(key, bucket.bits), new_prefixes)
  end
  local prefixes_at = prefixes_key(key, bucket.bits)
  for part, list in pairs(lists) do
    local flat, filled = {}, 0
    if part == 0 then
      flat, filled = {SUMMARY_FIELD, pack_summary(bucket)}, 2
    end
    for at = 1, list and #list or #fingerprints do
      local i = list and list[at] or at
      local old, alerts, last, number, resource = known[i], counts[i], times[i], numbers[i], rests[i]
      local flags = alerts % FLAG_VALUES
      local prefixed = number > 0
      alerts = (alerts - flags) / FLAG_VALUES
      if old then
        local head, high, low = byte(old, 1, SHORT_BYTES)
        local form = head % ALERTS_UNIT
        local old_alerts, old_last, rest = (head - form) / ALERTS_UNIT, high * 256 + low, SHORT_BYTES + 1
        if old_alerts == 0 then
          old_alerts, old_last, rest = struct_unpack(LONG_MEMBER, old, 2)
        end
        local old_flags, old_resource, old_prefixed = form % FLAG_VALUES, sub(old, rest), form >= PREFIXED
        alerts = alerts + old_alerts
        if old_flags ~= flags or old_last > last then
          local qualified = (flags >= QUALIFIED or old_flags >= QUALIFIED) and QUALIFIED or 0
          -- The other flag: whether the newest alert is resolved.
          local resolved, old_resolved = flags % QUALIFIED, old_flags % QUALIFIED
          if old_last > last then
            last, resolved = old_last, old_resolved
          elseif old_last == last and old_resolved > resolved then
            resolved = old_resolved
          end
          flags = qualified + resolved
        end
        if old_resource ~= resource or old_prefixed ~= prefixed then
          resource, prefixed = lower_resource(prefixes_at, old_resource, old_prefixed, prefixes[number], resource)
        end
      elseif old == false and prefixed and not named[number] then
        prefixed = false
        resource = join(sub(prefixes[number], PREFIX_HASH_BYTES + 1), sub(resource, PREFIX_HASH_BYTES + 1))
      end
      if old ~= nil then
        local form, low = prefixed and flags + PREFIXED or flags, last % 256
        flat[filled + 1] = fingerprints[i]
        if alerts <= SHORT_ALERTS and last <= SHORT_TIME then
          flat[filled + 2] = char(alerts * ALERTS_UNIT + form, (last - low) / 256, low) .. resource
        else
          flat[filled + 2] = char(form) .. struct_pack(LONG_MEMBER, alerts, last) .. resource
        end
        filled = filled + 2
      end
    end
    set_all(part_key(key, part), flat)
  end
end

