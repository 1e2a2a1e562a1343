// Kafka Streams: session or tumbling windows with grace, at least once, one thread. With MEMBERS=1 the state of a window
// has, for each fingerprint, the count, the newest time and the resource; otherwise it is a count.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Aggregator;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Initializer;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Merger;
import org.apache.kafka.streams.kstream.SessionWindows;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;

class Storms {
    static final ObjectMapper JSON = new ObjectMapper();
    static final AtomicLong DONE = new AtomicLong();
    static final Duration GAP = Duration.ofMinutes(5);
    static final Duration GRACE = Duration.ofSeconds(10);
    static final boolean SESSION = System.getenv("WINDOWS").equals("session");
    static volatile int largest = 0;

    record Alert(long fingerprint, long time, String resource) {}

    record Member(int count, long last, String resource) {
        Member and(Member other) {
            return new Member(count + other.count, Math.max(last, other.last), resource);
        }
    }

    static JsonNode labels(byte[] value) {
        try {
            return JSON.readTree(value).get("labels");
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    static String group(JsonNode labels) {
        return labels.get("alertname").asText() + "/" + labels.get("cluster").asText();
    }

    // FNV-1a of the sorted labels.
    static long fingerprint(JsonNode labels) {
        var sorted = new TreeMap<String, String>();
        labels.properties().forEach(label -> sorted.put(label.getKey(), label.getValue().asText()));
        long hash = 0xcbf29ce484222325L;
        for (var label : sorted.entrySet()) {
            hash = hashed(hashed(hash, label.getKey()), label.getValue());
        }
        return hash;
    }

    static long hashed(long hash, String text) {
        for (byte one : text.getBytes(StandardCharsets.UTF_8)) {
            hash = (hash ^ (one & 0xff)) * 0x100000001b3L;
        }
        return (hash ^ 0xff) * 0x100000001b3L;
    }

    // Parses each alert once, so that records of the repartition topic have only the fields of a member.
    static class Parser implements Processor<byte[], byte[], String, Alert> {
        private ProcessorContext<String, Alert> context;

        @Override
        public void init(ProcessorContext<String, Alert> context) {
            this.context = context;
        }

        @Override
        public void process(Record<byte[], byte[]> record) {
            var labels = labels(record.value());
            var resource = "Pod/" + labels.get("namespace").asText() + "/" + labels.get("pod").asText();
            var alert = new Alert(fingerprint(labels), record.timestamp(), resource);
            context.forward(record.withKey(group(labels)).withValue(alert));
        }
    }

    static Map<Long, Member> added(Map<Long, Member> members, Alert alert) {
        members.merge(alert.fingerprint, new Member(1, alert.time, alert.resource), Member::and);
        largest = Math.max(largest, members.size());
        DONE.incrementAndGet();
        return members;
    }

    static Map<Long, Member> merged(Map<Long, Member> members, Map<Long, Member> others) {
        others.forEach((fingerprint, member) -> members.merge(fingerprint, member, Member::and));
        return members;
    }

    interface Writer<T> {
        void write(DataOutputStream out, T value) throws IOException;
    }

    interface Reader<T> {
        T read(DataInputStream in) throws IOException;
    }

    static <T> Serde<T> serde(Writer<T> writer, Reader<T> reader) {
        return Serdes.serdeFrom((topic, value) -> {
            var bytes = new ByteArrayOutputStream(4096);
            try {
                writer.write(new DataOutputStream(bytes), value);
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
            return bytes.toByteArray();
        }, (topic, bytes) -> {
            try {
                return bytes == null ? null : reader.read(new DataInputStream(new ByteArrayInputStream(bytes)));
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        });
    }

    static final Serde<Alert> ALERT = serde((out, alert) -> {
        out.writeLong(alert.fingerprint);
        out.writeLong(alert.time);
        out.writeUTF(alert.resource);
    }, in -> new Alert(in.readLong(), in.readLong(), in.readUTF()));

    static final Serde<Map<Long, Member>> MEMBERS = serde((out, members) -> {
        out.writeInt(members.size());
        for (var entry : members.entrySet()) {
            out.writeLong(entry.getKey());
            out.writeInt(entry.getValue().count);
            out.writeLong(entry.getValue().last);
            out.writeUTF(entry.getValue().resource);
        }
    }, in -> {
        var size = in.readInt();
        var members = new HashMap<Long, Member>(size * 4 / 3 + 1);
        for (var number = 0; number < size; number++) {
            members.put(in.readLong(), new Member(in.readInt(), in.readLong(), in.readUTF()));
        }
        return members;
    });

    static <V, T> void window(
        KGroupedStream<String, V> groups, Initializer<T> empty, Aggregator<String, V, T> add, Merger<String, T> merge,
        Serde<T> serde
    ) {
        if (SESSION) {
            groups.windowedBy(SessionWindows.ofInactivityGapAndGrace(GAP, GRACE))
                .aggregate(empty, add, merge, Materialized.with(Serdes.String(), serde));
        } else {
            groups.windowedBy(TimeWindows.ofSizeAndGrace(GAP, GRACE))
                .aggregate(empty, add, Materialized.with(Serdes.String(), serde));
        }
    }

    static void count(KStream<byte[], byte[]> alerts) {
        var groups = alerts.groupBy(
            (key, value) -> group(labels(value)), Grouped.with(Serdes.String(), Serdes.ByteArray())
        );
        window(groups, () -> 0L, (key, value, count) -> {
            DONE.incrementAndGet();
            return count + 1;
        }, (key, one, other) -> one + other, Serdes.Long());
    }

    static void collect(KStream<byte[], byte[]> alerts) {
        var groups = alerts.process(Parser::new).groupByKey(Grouped.with(Serdes.String(), ALERT));
        window(
            groups, HashMap::new, (key, alert, members) -> added(members, alert),
            (key, members, others) -> merged(members, others), MEMBERS
        );
    }

    public static void main(String[] args) throws Exception {
        var environment = System.getenv();
        var builder = new StreamsBuilder();
        var alerts = builder.stream(environment.get("TOPIC"), Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()));
        if (environment.get("MEMBERS").equals("1")) {
            collect(alerts);
        } else {
            count(alerts);
        }
        var properties = new Properties();
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, environment.get("TOPIC") + "-streams");
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, environment.get("KAFKA"));
        properties.put(StreamsConfig.STATE_DIR_CONFIG, environment.get("FOLDER"));
        properties.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.AT_LEAST_ONCE);
        new KafkaStreams(builder.build(), properties).start();
        while (true) {
            Thread.sleep(50);
            System.out.println("done " + DONE.get() + " " + largest);
        }
    }
}
