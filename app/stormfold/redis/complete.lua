-- Deletes the buckets of claimed groups that were published, sets when the rest is due, and releases the leases.
-- Begins with a DEL: a full Redis does not stop a script that has written, and closing is what frees its memory.
--
-- KEYS
--   1 state_version     hash
--   2 due               zset
--   3 open_since        hash
--   4 void              never exists
-- ARGV
--   1 number            of the state version that the caller closes
--   2 group_prefix      prefix of group keys
--   3 bucket_prefix     prefix of bucket keys
--   4 lease_prefix      prefix of lease keys
--   5 token             of the lease
--   6 completions       {{group, buckets that stay, their due, {bucket start, alerts, ...} to delete}, ...}
-- Returns
--   {DONE, code...}     for each group 1 completed, 0 left as it was: the lease was lost, or a count differs
--   {STALE}             another state version, or none: nothing was done
redis.call('DEL', void)
if redis.call('HGET', state_version, NUMBER) ~= number then
  return {STALE}
end

-- The keys of the buckets, or nil if one of them has changed.
local function unchanged(group, buckets)
  local keys = {}
  for i = 1, #buckets, 2 do
    local key = bucket_prefix .. group .. SEPARATOR .. buckets[i]
    local summary = redis.call('HGET', key, SUMMARY_FIELD)
    if not summary or (struct.unpack(SUMMARY, summary)) ~= buckets[i + 1] then
      return nil
    end
    keys[#keys + 1] = key
    local bits, prefixes = select(8, struct.unpack(SUMMARY, summary))
    for part = 1, 2 ^ bits - 1 do
      keys[#keys + 1] = key .. SEPARATOR .. part
    end
    if bits > 0 and prefixes > 0 then
      keys[#keys + 1] = key .. SEPARATOR .. PREFIXES_PART
    end
  end
  return keys
end

-- Examples without those of some buckets.
local function without(examples, buckets)
  local gone, rest = {}, {}
  for i = 1, #buckets, 2 do
    gone[buckets[i]] = true
  end
  for at = 1, #examples, 2 do
    if not gone[examples[at]] then
      rest[#rest + 1] = examples[at]
      rest[#rest + 1] = examples[at + 1]
    end
  end
  return rest
end

local result = {DONE}
for _, completion in ipairs(completions) do
  local group, stay, next_due, buckets = unpack(completion)
  local group_key, lease_key = group_prefix .. group, lease_prefix .. group
  local completed = 0
  if redis.call('GET', lease_key) == token then
    local keys = unchanged(group, buckets)
    if keys then
      completed = 1
      for _, key in ipairs(keys) do
        redis.call('UNLINK', key)
      end
      local value, meta, examples = redis.call('GET', group_key), '', {}
      if value then
        local begin
        meta, begin = read_meta(value)
        examples = read_examples(value, begin)
      end
      local rest = without(examples, buckets)
      local first, next_first = first_bucket(examples), first_bucket(rest)
      if next_first then
        -- Buckets that were added since the claim may be due earlier: then the group is claimed again at once.
        redis.call('ZADD', due, #rest / 2 == stay and next_due or 0, group)
        if #buckets > 0 then
          redis.call('SET', group_key, pack_group(meta, rest))
        end
      else
        redis.call('DEL', group_key)
        redis.call('ZREM', due, group)
      end
      if first ~= next_first then
        add_open(open_since, first, -1)
        if next_first then
          add_open(open_since, next_first, 1)
        end
      end
    end
    redis.call('DEL', lease_key)
  end
  result[#result + 1] = completed
end
return result
