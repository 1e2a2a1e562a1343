// Kafka Streams: grouped anew, counted in session or tumbling windows with grace, at least once, one thread.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Duration;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.SessionWindows;
import org.apache.kafka.streams.kstream.TimeWindows;

class Storms {
    static final ObjectMapper JSON = new ObjectMapper();
    static final AtomicLong DONE = new AtomicLong();

    static String group(byte[] value) {
        try {
            JsonNode labels = JSON.readTree(value).get("labels");
            return labels.get("alertname").asText() + "/" + labels.get("cluster").asText();
        } catch (java.io.IOException error) {
            throw new RuntimeException(error);
        }
    }

    static long counted(long count) {
        DONE.incrementAndGet();
        return count + 1;
    }

    public static void main(String[] args) throws Exception {
        var environment = System.getenv();
        var builder = new StreamsBuilder();
        KGroupedStream<String, byte[]> groups = builder
            .stream(environment.get("TOPIC"), Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
            .groupBy((key, value) -> group(value), Grouped.with(Serdes.String(), Serdes.ByteArray()));
        var gap = Duration.ofMinutes(5);
        var grace = Duration.ofSeconds(10);
        if (environment.get("WINDOWS").equals("session")) {
            groups.windowedBy(SessionWindows.ofInactivityGapAndGrace(gap, grace))
                .aggregate(() -> 0L, (key, value, count) -> counted(count), (key, one, other) -> one + other,
                    org.apache.kafka.streams.kstream.Materialized.with(Serdes.String(), Serdes.Long()));
        } else {
            groups.windowedBy(TimeWindows.ofSizeAndGrace(gap, grace))
                .aggregate(() -> 0L, (key, value, count) -> counted(count),
                    org.apache.kafka.streams.kstream.Materialized.with(Serdes.String(), Serdes.Long()));
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
            System.out.println("done " + DONE.get());
        }
    }
}
