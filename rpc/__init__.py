"""What concerns the wire and every service: errors, servers, deadlines, telemetry."""
