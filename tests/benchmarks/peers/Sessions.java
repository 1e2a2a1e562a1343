// Apache Flink in its mini-cluster: session windows in event time, the state of a window has, for each fingerprint, the
// count, the newest time and the resource; exactly once by checkpoints, parallelism 1.
//
// A merging window cannot have a map state of its own in Flink, so `STATE=heap` keeps the members as one value of the
// window, on the heap, as the documentation recommends for small state. `STATE=rocksdb` has a map state of RocksDB, in
// which an alert reads and writes one member, and ends the session with a timer.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.Serializable;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.MapState;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.api.java.tuple.Tuple4;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.StateBackendOptions;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.KeyedStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.streaming.api.windowing.assigners.EventTimeSessionWindows;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;

public class Sessions {
    static final ObjectMapper JSON = new ObjectMapper();
    static final AtomicLong DONE = new AtomicLong();
    static final Duration GAP = Duration.ofMinutes(5);
    static final Duration GRACE = Duration.ofSeconds(10);
    static volatile int largest = 0;

    // Alerts are group, fingerprint, time, resource; members are count, newest time, resource.
    static final TypeInformation<Tuple4<String, Long, Long, String>> ALERT =
        Types.TUPLE(Types.STRING, Types.LONG, Types.LONG, Types.STRING);
    static final TypeInformation<Tuple3<Integer, Long, String>> MEMBER =
        Types.TUPLE(Types.INT, Types.LONG, Types.STRING);

    static class Parser implements KafkaRecordDeserializationSchema<Tuple4<String, Long, Long, String>> {
        @Override
        public void deserialize(
            ConsumerRecord<byte[], byte[]> record, Collector<Tuple4<String, Long, Long, String>> out
        ) throws IOException {
            var labels = JSON.readTree(record.value()).get("labels");
            var group = labels.get("alertname").asText() + "/" + labels.get("cluster").asText();
            var resource = "Pod/" + labels.get("namespace").asText() + "/" + labels.get("pod").asText();
            out.collect(Tuple4.of(group, fingerprint(labels), record.timestamp(), resource));
        }

        @Override
        public TypeInformation<Tuple4<String, Long, Long, String>> getProducedType() {
            return ALERT;
        }
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

    static Tuple3<Integer, Long, String> and(Tuple3<Integer, Long, String> one, Tuple3<Integer, Long, String> other) {
        return one == null ? other : Tuple3.of(one.f0 + other.f0, Math.max(one.f1, other.f1), one.f2);
    }

    static class Collect implements AggregateFunction<
        Tuple4<String, Long, Long, String>, Map<Long, Tuple3<Integer, Long, String>>, Integer
    > {
        @Override
        public Map<Long, Tuple3<Integer, Long, String>> createAccumulator() {
            return new HashMap<>();
        }

        @Override
        public Map<Long, Tuple3<Integer, Long, String>> add(
            Tuple4<String, Long, Long, String> alert, Map<Long, Tuple3<Integer, Long, String>> members
        ) {
            members.merge(alert.f1, Tuple3.of(1, alert.f2, alert.f3), Sessions::and);
            largest = Math.max(largest, members.size());
            DONE.incrementAndGet();
            return members;
        }

        @Override
        public Integer getResult(Map<Long, Tuple3<Integer, Long, String>> members) {
            return members.size();
        }

        @Override
        public Map<Long, Tuple3<Integer, Long, String>> merge(
            Map<Long, Tuple3<Integer, Long, String>> members, Map<Long, Tuple3<Integer, Long, String>> others
        ) {
            others.forEach((fingerprint, member) -> members.merge(fingerprint, member, Sessions::and));
            return members;
        }
    }

    static class Timed extends KeyedProcessFunction<String, Tuple4<String, Long, Long, String>, Integer> {
        private transient MapState<Long, Tuple3<Integer, Long, String>> members;
        // Number of members, newest time.
        private transient ValueState<Tuple2<Integer, Long>> session;

        @Override
        public void open(OpenContext context) {
            var runtime = getRuntimeContext();
            members = runtime.getMapState(new MapStateDescriptor<>("members", Types.LONG, MEMBER));
            session = runtime.getState(new ValueStateDescriptor<>("session", Types.TUPLE(Types.INT, Types.LONG)));
        }

        @Override
        public void processElement(
            Tuple4<String, Long, Long, String> alert, Context context, Collector<Integer> out
        ) throws Exception {
            var before = session.value();
            if (before == null) {
                before = Tuple2.of(0, alert.f2);
                context.timerService().registerEventTimeTimer(alert.f2 + GAP.toMillis());
            }
            var member = members.get(alert.f1);
            members.put(alert.f1, and(member, Tuple3.of(1, alert.f2, alert.f3)));
            var count = before.f0 + (member == null ? 1 : 0);
            session.update(Tuple2.of(count, Math.max(before.f1, alert.f2)));
            largest = Math.max(largest, count);
            DONE.incrementAndGet();
        }

        @Override
        public void onTimer(long time, OnTimerContext context, Collector<Integer> out) throws Exception {
            var found = session.value();
            if (found.f1 + GAP.toMillis() > time) {
                context.timerService().registerEventTimeTimer(found.f1 + GAP.toMillis());
            } else {
                out.collect(found.f0);
                members.clear();
                session.clear();
            }
        }
    }

    public static void main(String[] args) throws Exception {
        var environment = System.getenv();
        var heap = environment.get("STATE").equals("heap");
        var settings = new Configuration();
        settings.set(StateBackendOptions.STATE_BACKEND, heap ? "hashmap" : "rocksdb");
        settings.set(CheckpointingOptions.INCREMENTAL_CHECKPOINTS, !heap);
        settings.set(CheckpointingOptions.CHECKPOINTS_DIRECTORY, "file://" + environment.get("FOLDER"));
        var flink = StreamExecutionEnvironment.createLocalEnvironment(1, settings);
        flink.enableCheckpointing(10_000);
        flink.getConfig().enableObjectReuse();
        var source = KafkaSource.<Tuple4<String, Long, Long, String>>builder()
            .setBootstrapServers(environment.get("KAFKA")).setTopics(environment.get("TOPIC"))
            .setGroupId(environment.get("TOPIC") + "-flink").setStartingOffsets(OffsetsInitializer.earliest())
            .setDeserializer(new Parser()).build();
        var watermarks = WatermarkStrategy.<Tuple4<String, Long, Long, String>>forBoundedOutOfOrderness(GRACE);
        KeyedStream<Tuple4<String, Long, Long, String>, String> groups =
            flink.fromSource(source, watermarks, "alerts").keyBy(alert -> alert.f0);
        DataStream<Integer> closed;
        if (heap) {
            closed = groups.window(EventTimeSessionWindows.withGap(GAP))
                .aggregate(new Collect(), Types.MAP(Types.LONG, MEMBER), Types.INT);
        } else {
            closed = groups.process(new Timed());
        }
        closed.sinkTo(new DiscardingSink<>());
        flink.executeAsync("sessions");
        while (true) {
            Thread.sleep(50);
            System.out.println("done " + DONE.get() + " " + largest);
        }
    }
}
